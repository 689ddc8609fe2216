"""The numbers of a sweep on their way to a map: what is there before anything is patched, and the map at the end."""

import numpy as np

from headlens.analyses.cell_grid import Grid, there
from headlens.analyses.headmap import HeadMap
from headlens.analyses.position_tokens import position_tokens
from headlens.analyses.sweep_plan import Plan, has_heads
from headlens.analyses.task import Task
from headlens.analyses.tokens import tokenizer_of
from headlens.hooks.model import Model

# A smaller part of the clean-corrupted difference than this is rounding, and an effect relative to it is noise.
SMALLEST_SCALE = 1e-6


def unmoved(task: Task, plan: Plan, cells: Grid) -> np.ndarray:
    """Effects [prompt, cell, place, metric] before anything is patched: 0, and NaN at places that a prompt lacks."""
    row = np.where(there(task, plan, cells), np.float32(0), np.float32(np.nan))
    shape = (len(task), len(cells.cells), cells.places, len(plan.metrics))
    return np.broadcast_to(row[:, None, :, None], shape).copy()


def refuse_alike(task: Task, plan: Plan, scale: np.ndarray) -> None:
    """ValueError where a metric [prompt, metric] is the same for clean and corrupted prompts."""
    for metric, mean in zip(plan.metrics, scale.mean(0), strict=True):
        if abs(float(mean)) < SMALLEST_SCALE:
            raise ValueError(
                f"On task {task.name!r} the model's {metric.name} is the same for clean and corrupted prompts, so "
                "there is nothing to restore or destroy; use prompts on which it tells them apart."
            )


def as_map(
    model: Model,
    task: Task,
    plan: Plan,
    cells: Grid,
    samples: np.ndarray,
    scale: np.ndarray,
    provenance: dict,
    name: str,
) -> HeadMap:
    """The map of effects [prompt, cell, place, metric] and of scale [prompt, metric], in the metrics' units."""
    shape, single = (len(task), *cells.cell_shape, *cells.place_shape), len(plan.metrics) == 1
    names = [metric.name for metric in plan.metrics]
    units = plan.metrics[0].units if single else "each metric"
    what, verb = _cell_name(plan), "restores" if plan.direction == "denoising" else "destroys"
    if plan.by_position and plan.positions is None and model.tokenizer is not None:
        provenance = {**provenance, "tokens": position_tokens(task, tokenizer_of(model))}
    return HeadMap.from_samples(
        samples.reshape(shape if single else (*shape, len(names))),
        scale[:, 0] if single else scale,
        dims=plan.axes if single else (*plan.axes, "metric"),
        coords=cells.coords if single else {**cells.coords, "metric": names},
        name=name if plan.site == "z" else f"{name} of {plan.site}",
        units=f"fraction of the clean-corrupted difference in {units}",
        sign=f"Positive means that the {what} carries the clean behaviour; 1 means that patching it {verb} all of it.",
        clusters=task.templates,
        provenance=provenance,
    )


def _cell_name(plan: Plan) -> str:
    """What one cell is, in words."""
    if plan.heads is not None:
        return "set of heads"
    if "head" not in plan.axes:
        return "layer" if has_heads(plan.site) else f"layer's {plan.site}"
    return "key/value head" if plan.site in ("rot_k", "v") else "head"
