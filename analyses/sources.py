"""What a sweep patches in: the other run, nothing, a mean over the other run's prompts, or another prompt's activation.

The other run is the clean one when denoising and the corrupted one when noising: its mean over prompts is the reference
of 2211.00593's mean ablation.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from headlens.analyses.prompt_groups import PromptGroup, group_prompts, group_whole_prompts
from headlens.analyses.sweep_plan import Plan
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.sites import SITE_AXES, Site
from headlens.hooks.sweep import Fill


def groups_of(task: Task, plan: Plan, largest: int) -> list[PromptGroup]:
    """The prompts that run together. Only the other run of a pair agrees with the base run before they differ."""
    return (group_prompts if plan.source == "other" else group_whole_prompts)(task, largest)


def runs_of(task: Task, plan: Plan) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, "prompt pos"]]:
    """The tokens of the run that is patched, and of the other."""
    clean, corrupted = task.clean_tokens, task.corrupted_tokens
    return (corrupted, clean) if plan.direction == "denoising" else (clean, corrupted)


def fills(model: Model, task: Task, plan: Plan, largest: int) -> Callable[[PromptGroup], Fill | None]:
    """For each group, what the engine patches in; None is the other run of the same pair.

    ValueError for `resample` where a prompt has no other of its length.
    """
    match plan.source:
        case "other":
            return lambda group: None
        case "zero":
            return lambda group: lambda layer, base: torch.where(base == -torch.inf, base, 0)
        case "resample":
            drawn = other_prompts(task, plan.seed)
            return lambda group: _of_run(
                model, runs_of(task, plan)[1][drawn[list(group.indices)], : group.length], plan
            )
        case _:
            means = _means(model, task, plan, largest)
            return lambda group: lambda layer, base: _up_to(means[layer], group.length, plan).expand_as(base)


def other_prompts(task: Task, seed: int) -> Int[Tensor, " prompt"]:
    """Another prompt of the same length for each prompt: a cycle through each length's prompts in random order."""
    draw, other = torch.Generator().manual_seed(seed), torch.empty(len(task), dtype=torch.int64)
    for end in task.positions["END"].unique():
        alike = torch.nonzero(task.positions["END"] == end)[:, 0]
        if len(alike) < 2:
            raise ValueError(
                f"Prompt {int(alike[0])} is the only one of {int(end) + 1} tokens up to END, so there is no other to "
                "resample from; give more prompts, or source='mean'."
            )
        shuffled = alike[torch.randperm(len(alike), generator=draw)]
        other[shuffled] = shuffled.roll(1)
    return other


def _of_run(model: Model, tokens: Int[Tensor, "prompt pos"], plan: Plan) -> Fill:
    """The activations of other tokens; an engine asks for the first so many prompts, and the last so many positions."""
    with torch.no_grad():
        _, kept = model.record(tokens, names_filter=plan.engine_site, budget=None)

    def fill(layer: int, base: Tensor) -> Tensor:
        whole = kept[str(Site(plan.engine_site, layer))][: len(base)]
        return whole[:, :, -base.shape[2] :] if _by_query(plan) else whole[:, -base.shape[1] :]

    return fill


def _means(model: Model, task: Task, plan: Plan, largest: int) -> list[Tensor]:
    """Each layer's mean over the other run's prompts, per position (or query and key) of a prompt; for `mean` also over
    positions. Tokens behind END do not count."""
    _, other = runs_of(task, plan)
    longest = int(task.positions["END"].max()) + 1
    counts = torch.zeros(longest)
    totals: dict[int, Tensor] = {}
    for group in group_whole_prompts(task, largest):
        with torch.no_grad():
            _, kept = model.record(
                group.rows(other), names_filter=plan.engine_site, reduce={plan.engine_site: _summed}, budget=None
            )
        more = longest - group.length
        counts[: group.length] += len(group.indices)
        for layer in range(model.n_layers):
            total = kept[str(Site(plan.engine_site, layer))]
            padding = (0, more, 0, more) if _by_query(plan) else (0, 0) * (total.ndim - 1) + (0, more)
            totals[layer] = totals.get(layer, 0) + pad(total, padding)
    if plan.source == "mean":
        return [totals[layer].sum(0, keepdim=True) / counts.sum() for layer in range(model.n_layers)]
    # the axis of positions: a pattern's queries, behind its heads, or else the first
    per_position = counts[:, None] if _by_query(plan) else counts.reshape(-1, *(1,) * (totals[0].ndim - 1))
    return [totals[layer] / per_position.to(totals[layer].device) for layer in range(model.n_layers)]


def _summed(tensor: Tensor, site: Site) -> Tensor:
    return tensor.sum(0)


def _up_to(mean: Tensor, length: int, plan: Plan) -> Tensor:
    """The part of a mean that prompts of this length have."""
    return mean[:, :length, :length] if _by_query(plan) else mean[:length]


def _by_query(plan: Plan) -> bool:
    return "query" in SITE_AXES[plan.engine_site]
