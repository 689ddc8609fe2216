"""Attribution patching: what patching every cell would do, to first order, from a few gradients.

The effect of putting activation a' in the place of a is estimated as (a' - a) . dm/da, for all cells of a sweep at once
(attribution patching, 2310.10348). With `steps` > 1 the gradient is averaged over inputs between the patched run and
the other one: integrated gradients, at the middle of each of so many equal parts of the way (EAP-IG, 2403.17806, takes
the ends). It ranks cells in a hundredth of a sweep's time and is wrong for some: `headlens.verify` patches the first
ones for real and says what that misses.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.cell_grid import Grid, grid, places
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric, measured, tokens_of
from headlens.analyses.positions import Position, checked
from headlens.analyses.prompt_groups import PromptGroup, group_prompts
from headlens.analyses.provenance import origin
from headlens.analyses.sources import runs_of
from headlens.analyses.sweep_map import as_map, refuse_alike, unmoved
from headlens.analyses.sweep_plan import Plan, plan
from headlens.analyses.task import Task
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.base_run import record_base
from headlens.hooks.gradients import site_gradients
from headlens.hooks.halving import halved
from headlens.hooks.machine import Machine
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.room import gradient_rows_that_fit
from headlens.hooks.sites import SITE_AXES
from headlens.hooks.suffix_run import run_from

# Rows (steps x prompts x positions) of one backward pass on a CPU, whose activations are all kept.
_ROWS = 384


def attribute(
    model: Model,
    task: Task,
    site: str = "z",
    axes: Sequence[str] | None = None,
    metric: AnyMetric | Sequence[AnyMetric] | None = None,
    direction: str = "denoising",
    steps: int = 1,
    *,
    positions: Position | Sequence[Position] | None = None,
    progress: bool = True,
) -> HeadMap:
    """Estimate `patch_sweep` of the same site, axes, metric, direction and positions from gradients.

    Args:
        steps: 1 is the gradient at the patched run itself; more average it over that many inputs on the way to the
            other run.

    Returns:
        A HeadMap in patch_sweep's units: `values` = mean of samples / mean of scale, 1 for a cell that would restore
        (denoising) or destroy (noising) everything. At `resid_mid`, `result` and so on as there.

    Raises:
        ValueError: for a metric without a gradient (rank), steps < 1, and whatever patch_sweep refuses; where a GPU's
            memory does not hold one prompt's backward pass.
    """
    chosen = plan(site, axes, task.metric if metric is None else metric, direction, positions=positions)
    check(chosen, steps)
    refuse_unfit(model, task)
    checked(chosen.positions, task)
    cells, groups = grid(model, task, chosen), group_prompts(task, len(task))
    if not groups:
        raise ValueError(f"No pair of task {task.name!r} differs before END; there is nothing to attribute.")
    samples, scale = unmoved(task, chosen, cells), np.zeros((len(task), 1), np.float32)

    def compute(group: PromptGroup, some: list[int]) -> None:
        own, reached = replace(group, indices=tuple(some)), [place for place, _ in places(task, chosen, group)]
        found, scale[some] = _of_group(model, task, own, chosen, cells, steps)
        samples[np.ix_(some, range(len(cells.cells)), reached, [0])] = found[..., None]

    machine, parts = Machine(), [part for whole in groups for part in _parts(model, whole)]
    for group in tqdm(parts, unit=" groups", desc=f"attributing {task.name}", disable=not progress):
        prompts, alone = [*group.indices], f"a backward pass of one prompt of {group.length} tokens"
        machine.in_batches(prompts, len(prompts), group.length - group.start, partial(compute, group), alone)
    refuse_alike(task, chosen, scale)
    method = "gradient" if steps == 1 else f"integrated gradients, {steps} steps"
    provenance = {**origin(model, task), **chosen.described(), "method": method}
    return as_map(model, task, chosen, cells, samples, scale, provenance, name="attributed effect")


def check(plan: Plan, steps: int) -> None:
    """ValueError for a plan that has no gradient, or fewer than one step."""
    if steps < 1:
        raise ValueError(f"steps={steps} was given; expected how many gradients are averaged, at least 1.")
    for metric in plan.metrics:
        if not metric.smooth:
            raise ValueError(f"The metric {metric.name!r} has no gradient; attribute another, such as logit_diff.")
    if len(plan.metrics) > 1:
        raise ValueError("Several metrics were given; attribution takes one at a time.")


def _parts(model: Model, group: PromptGroup) -> list[PromptGroup]:
    """The group in parts that fit one backward pass each."""
    size = max(1, _rows(model, group) // (group.length - group.start))
    return [replace(group, indices=group.indices[at : at + size]) for at in range(0, len(group.indices), size)]


def _rows(model: Model, group: PromptGroup) -> int:
    """How many rows one backward pass may have."""
    suffix = group.length - group.start
    fitting = gradient_rows_that_fit(model, group.length, suffix, vocabulary_of(model) / suffix)
    return _ROWS if fitting is None else fitting


def _of_group(
    model: Model, task: Task, group: PromptGroup, plan: Plan, cells: Grid, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Estimated effects [prompt, cell, place] and scale [prompt, metric], in the metric's units."""
    own, toward = task.subset(group.indices), 1 if plan.direction == "denoising" else -1
    patched, other = (group.rows(tokens).to(model.device) for tokens in runs_of(task, plan))
    base = record_base(model, patched, group.start)
    tokens = tokens_of(plan.metrics, own)
    read = Read(None if tokens is None else tokens.to(model.device))
    both = run_from(model, base, torch.cat([patched, other]), plan.engine_site, read)
    of_runs = [logits[:, -1].float() for logits in both.logits.chunk(2)]
    clean = of_runs[1] if toward > 0 else of_runs[0]

    def metric(logits: Tensor) -> Tensor:
        return measured(plan.metrics, _read(logits.float(), tokens), own, clean)[..., 0]

    shares = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    summed: list[Tensor | float] = [0.0] * model.n_layers

    def add(some: list[int]) -> None:
        gradients = site_gradients(model, base, other, plan.engine_site, [shares[step] for step in some], metric)
        summed[:] = [total + len(some) * gradient for total, gradient in zip(summed, gradients, strict=True)]

    at_once = left = max(1, _rows(model, group) // patched[:, group.start :].numel())
    for first in range(0, steps, at_once):
        left = halved([*range(first, min(first + at_once, steps))], left, add)
    effects = []
    for total, kept in zip(summed, both.kept, strict=True):
        before, across = kept.chunk(2)
        effects.append(_parts_of_heads(torch.as_tensor(total) / steps, across - before, plan.engine_site))
    base_value, other_value = (measured(plan.metrics, logits, own, clean) for logits in of_runs)
    found = (toward * _by_place(effects, task, group, plan, cells)).cpu().numpy()
    return found, (toward * (other_value - base_value)).cpu().numpy()


def _by_place(effects: list[Tensor], task: Task, group: PromptGroup, plan: Plan, cells: Grid) -> Tensor:
    """Each cell's estimate at each place [prompt, cell, place], from those of all heads and rows of each layer."""
    of_cells = []
    for cell in cells.cells:
        parts = [effects[layer][:, list(heads) or [0]].sum(1) for layer, heads in cell.parts]
        of_cells.append(torch.stack(parts).sum(0))
    by_cell, columns = torch.stack(of_cells, 1), []
    for _, rows in places(task, plan, group):
        chosen = rows.chosen[:, group.start :].to(by_cell.device)
        entries = by_cell if rows.key is None else by_cell[..., rows.key : rows.key + 1]
        weights = chosen[:, None].to(entries.dtype)
        columns.append((entries * (weights if entries.ndim == 3 else weights[..., None])).flatten(2).sum(2))
    return torch.stack(columns, 2)


def _read(logits: Tensor, tokens: Tensor | None) -> Tensor:
    if tokens is None:
        return logits
    return logits.gather(-1, tokens.to(logits.device).expand(*logits.shape[:-1], -1))


def _parts_of_heads(gradient: Tensor, difference: Tensor, site: str) -> Tensor:
    """Gradient times difference as [prompt, head (1 at sites without), row (, key)]."""
    # hidden keys differ by -inf minus -inf
    product = gradient * torch.where(difference.isfinite(), difference, 0)
    if SITE_AXES[site][1] == "head":
        return product
    product = product.sum(-1)
    return product.transpose(1, 2) if product.ndim == 3 else product[:, None]
