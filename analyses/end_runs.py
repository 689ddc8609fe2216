"""What runs of a task leave at each prompt's END, for analyses that read nothing else.

A causal model never sees behind END, so prompts are cut there and those of equal length run together, without padding
or masks. Everything but the values (which every key holds) is reduced to END the moment it is recorded.
"""

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.analyses.task import Task
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.model import Model
from headlens.hooks.nearest import did_you_mean
from headlens.hooks.record import at_positions, parse_bytes
from headlens.hooks.sites import Site

RUNS = ("clean", "corrupted")
# Vectors of d_model that a block has in flight at one position, its MLP's wider ones counted in.
_IN_FLIGHT = 24


@dataclass(frozen=True, eq=False)
class EndRun:
    """One run of the prompts `prompts` of a task, which all end at the same position."""

    prompts: tuple[int, ...]
    answers: Int[Tensor, " prompt"]
    foils: Int[Tensor, " prompt"]
    kept: dict[str, Tensor]

    def at(self, site: str, layer: int) -> Tensor:
        """An activation at END, in float32: the site's axes without `pos` or `query` (values: at every key)."""
        return self.kept[str(Site(site, layer))].float()


def end_runs(
    model: Model, task: Task, run: str, sites: Sequence[Site], memory: str | int | None = "1GiB"
) -> Iterator[EndRun]:
    """Run every prompt of `task` once and keep `sites` at END, as many prompts at a time as fit into `memory`.

    ValueError for a run that is not "clean" or "corrupted", or a task of another vocabulary.
    """
    if run not in RUNS:
        hint = did_you_mean(run, RUNS)
        raise ValueError(f"Unknown run {run!r}{hint}; the runs of a task are {' and '.join(RUNS)}.")
    task.check_vocabulary(vocabulary_of(model))
    bound = parse_bytes(memory)
    tokens = task.clean_tokens if run == "clean" else task.corrupted_tokens
    return _runs(model, task, tokens, sites, bound)


def _runs(
    model: Model, task: Task, tokens: Int[Tensor, "prompt pos"], sites: Sequence[Site], bound: int | None
) -> Iterator[EndRun]:
    ending: dict[int, list[int]] = defaultdict(list)
    for prompt, end in enumerate(task.positions["END"].tolist()):
        ending[end].append(prompt)
    last_alone: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        last_alone = {"logits_to_keep": 1}
    for end, alike in sorted(ending.items()):
        reduce = {site.name: at_positions(end) for site in sites if {"pos", "query"} & {*site.axes}}
        size = len(alike) if bound is None else max(1, bound // _bytes_per_prompt(model, end + 1, sites))
        for first in range(0, len(alike), size):
            prompts = alike[first : first + size]
            with torch.no_grad():
                _, kept = model.record(
                    tokens[prompts, : end + 1],
                    names_filter=[str(site) for site in sites],
                    reduce=reduce,
                    budget=None,
                    **last_alone,
                )
            answers, foils = (token[prompts].to(model.device) for token in (task.answers, task.foils))
            yield EndRun(tuple(prompts), answers, foils, kept)


def _bytes_per_prompt(model: Model, length: int, sites: Sequence[Site]) -> int:
    """An estimate of what a run holds of one prompt at once."""
    names = [site.name for site in sites]
    passing = length * _IN_FLIGHT * model.d_model + vocabulary_of(model)
    patterns = 3 * model.n_heads * length**2 if "pattern" in names else 0
    values = names.count("v") * length * model.n_kv_heads * model.d_head
    at_end = model.n_layers * (model.n_heads * model.d_head + 3 * model.d_model)
    return (passing + patterns + values + at_end) * model.dtype.itemsize
