"""What runs of a task leave at each prompt's END, for analyses that read nothing else.

A causal model never sees behind END, so prompts are cut there and those of equal length run together, without padding
or masks. Everything but the values (which every key holds) is reduced to END the moment it is recorded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.analyses.equal_lengths import of_equal_length
from headlens.analyses.task import Task
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.inputs import known_words
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
        # a model may stand on several devices
        return self.kept[str(Site(site, layer))].to(self.answers.device, torch.float32)


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
    last_alone = known_words(model.hf, logits_to_keep=1)

    def at_once(length: int) -> int:
        return len(tokens) if bound is None else bound // _bytes_per_prompt(model, length, sites)

    for prompts, length in of_equal_length(task.positions["END"] + 1, at_once):
        reduce = {site.name: at_positions(length - 1) for site in sites if {"pos", "query"} & {*site.axes}}
        with torch.no_grad():
            _, kept = model.record(
                tokens[prompts, :length],
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
