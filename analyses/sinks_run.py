"""The search for attention sinks in many prompts, kept on disk by the batch, so that a run that is killed goes on."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.checkpoints import Checkpoint, NotKept
from headlens.analyses.fitness import refuse_too_long
from headlens.analyses.massive import LEAST, RATIO, Activation, MassiveActivations
from headlens.analyses.prompt_tokens import prompt_tokens
from headlens.analyses.prompts import Prompts
from headlens.analyses.sinks import check as check_rule
from headlens.analyses.sinks import find_sinks
from headlens.analyses.sinks_found import Sinks
from headlens.hooks.model import Model
from headlens.hooks.sink_rule import SinkRule

_WHOLE_NUMBERS = 4  # of an Activation, in front of its sizes


def sinks_run(
    model: Model,
    prompts: Prompts,
    rule: SinkRule | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Sinks:
    """What `find_sinks` finds by a rule (without one: SinkRule()), on prompts of any lengths.

    `run` is a folder that keeps each finished batch of prompts; a run that was stopped goes on there. ValueError as for
    `find_sinks`, and for a folder that holds another run.
    """
    rule = SinkRule() if rule is None else rule
    check(model, prompts, rule)
    count, longest = prompts.tokens.shape
    per_head = (count, model.n_layers, model.n_heads, longest)
    # what find_sinks says of padding
    whole = {
        "share": np.full(per_head, np.nan, np.float32),
        "received": np.full(per_head, np.nan, np.float32),
        "times": np.zeros(per_head, np.float32),
        "rows": np.zeros((count, model.n_layers, longest), np.float32),
        "peak": np.full((count, model.n_layers + 1, longest), np.nan, np.float32),
    }
    activations: list[Activation] = []
    provenance = {"analysis": "find_sinks", **prompts.about}
    identity = {**provenance, "rule": rule.plain()}
    store = nullcontext(NotKept()) if run is None else Checkpoint.open(Path(run), identity, resume)
    with store as chunks, tqdm(total=count, unit=" prompts", disable=not progress) as bar:
        bar.set_description(f"finding sinks in {prompts.name}")
        for number, (together, length) in enumerate(prompts.batches()):
            tokens = prompts.tokens[together, :length]
            chunk = chunks.kept(f"prompts{number:05d}", partial(_found, model, tokens, rule))
            for name, array in whole.items():
                array[together, ..., :length] = chunk[name]
            for prompt, *places_and_sizes in chunk["massive"].tolist():
                numbers = [together[int(prompt)], *places_and_sizes]
                activations.append(Activation(*map(int, numbers[:_WHOLE_NUMBERS]), *numbers[_WHOLE_NUMBERS:]))
            bar.update(len(together))
    for array in whole.values():
        array.setflags(write=False)
    texts = prompt_tokens(model.tokenizer, prompts.tokens, torch.arange(longest) < prompts.lengths[:, None])
    massive = MassiveActivations(tuple(sorted(activations)), whole.pop("peak"), texts, LEAST, RATIO)
    return Sinks(rule=rule, **whole, prompts=texts, massive=massive, provenance=provenance, clusters=prompts.templates)


def check(model: Model, prompts: Prompts, rule: SinkRule) -> None:
    """ValueError for a model that cannot have such sinks, or has too few positions for these prompts."""
    check_rule(model, rule)
    refuse_too_long(model, prompts.tokens.shape[1])


def _found(model: Model, tokens: Tensor, rule: SinkRule) -> dict[str, np.ndarray]:
    found = find_sinks(model, tokens, **rule.plain())
    activations = np.array(found.massive.found, np.float64).reshape(-1, len(Activation._fields))
    by_key = {name: getattr(found, name) for name in ("share", "received", "times", "rows")}
    return {**by_key, "peak": found.massive.peak, "massive": activations}
