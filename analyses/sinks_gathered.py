"""Sinks of many prompts, gathered from runs of a few each, which follow at once or were kept on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from headlens.analyses.massive import LEAST, RATIO, Activation, MassiveActivations, MassiveNotes
from headlens.analyses.prompt_tokens import PromptTokens
from headlens.analyses.sink_tally import SinkTally
from headlens.analyses.sinks_found import Sinks
from headlens.analyses.watched_run import WatchedRun
from headlens.hooks.attention_taps import Watch
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Site

# What padding has, and what is behind prompts that are shorter than others.
_NOTHING = {"share": np.nan, "received": np.nan, "times": 0.0, "rows": 0.0, "peak": np.nan}
_WHOLE_NUMBERS = 4  # of an Activation, in front of its sizes


def sinks_in(run: WatchedRun, rule: SinkRule) -> dict[str, np.ndarray]:
    """What one run finds: share, received, times and rows as `Sinks` has them, peak as `MassiveActivations` has it, and
    massive, a row of numbers for each Activation."""
    model, notes = run.model, MassiveNotes(run.real)
    tallies = [SinkTally(rule) for _ in model.layers]
    watches = [Watch(Site("pattern", at), tally.look, "find_sinks") for at, tally in enumerate(tallies)]
    run([*watches, *notes.taps(model)])
    massive = notes.result(tokenizer=None, ids=None)
    by_layer = zip(*(tally.of_keys(massive.peak.shape[-1]) for tally in tallies), strict=True)
    rows, flagged, received, times = (torch.stack(part, 1) for part in by_layer)
    return {
        "share": (flagged / rows).numpy(),
        "received": (received / rows).numpy(),
        "times": times.numpy(),
        "rows": rows[:, :, 0].numpy(),
        "peak": massive.peak,
        "massive": np.array(massive.found, np.float64).reshape(-1, len(Activation._fields)),
    }


@dataclass(eq=False)
class SinksGathered:
    """What runs have found so far of this many prompts."""

    prompts: int
    length: int | None = None  # tokens of a prompt, padding counted; None: those of the first run
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    activations: list[Activation] = field(default_factory=list)

    def add(self, together: Sequence[int], found: Mapping[str, np.ndarray]) -> None:
        """Add what a run of these prompts found, as `sinks_in` returns it."""
        for name, nothing in _NOTHING.items():
            *sizes, length = found[name].shape[1:]
            if name not in self.arrays:
                whole = (self.prompts, *sizes, self.length or length)
                self.arrays[name] = np.full(whole, nothing, np.float32)
            self.arrays[name][together, ..., :length] = found[name]
        for prompt, *places_and_sizes in found["massive"].tolist():
            numbers = [together[int(prompt)], *places_and_sizes]
            places, sizes = numbers[:_WHOLE_NUMBERS], numbers[_WHOLE_NUMBERS:]
            self.activations.append(Activation(*map(int, places), *sizes))

    def result(
        self, rule: SinkRule, prompts: PromptTokens, provenance: Mapping[str, Any], clusters: tuple[str, ...] = ()
    ) -> Sinks:
        """The sinks of all prompts, whose tokens these are."""
        for array in self.arrays.values():
            array.setflags(write=False)
        own = {name: array for name, array in self.arrays.items() if name != "peak"}
        massive = MassiveActivations(tuple(sorted(self.activations)), self.arrays["peak"], prompts, LEAST, RATIO)
        return Sinks(rule=rule, **own, prompts=prompts, massive=massive, provenance=provenance, clusters=clusters)
