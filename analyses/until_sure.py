"""Patch until sure: more prompts only for the cells whose interval still crosses the line that matters.

Most heads do next to nothing and a few do much, and both are plain after a few prompts; the ones in between need all of
them. After every batch of prompts each cell's interval is looked at, and a cell that lies on one side of the line is
left alone from then on. The looks share the error (Bonferroni), so that a cell is wrongly set aside in at most
1 - `level` of all cases, as far as the bootstrap's intervals hold (see `headlens.analyses.uncertainty`).
"""

from collections.abc import Sequence

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric
from headlens.analyses.patching import run_plan
from headlens.analyses.sure import level_per_look, undecided
from headlens.analyses.sweep_plan import plan
from headlens.analyses.task import Task
from headlens.hooks.model import Model


def patch_until_sure(
    model: Model,
    task: Task,
    line: float = 0.05,
    level: float = 0.95,
    batch: int = 16,
    site: str = "z",
    axes: Sequence[str] | None = None,
    metric: AnyMetric | None = None,
    direction: str = "denoising",
    *,
    progress: bool = True,
) -> HeadMap:
    """`patch_sweep` that adds `batch` prompts at a time, and only to cells of which it is not yet known whether their
    effect is beyond +line or -line (0: whether it is positive).

    Returns:
        A map of all cells. `samples` are NaN where a prompt was not needed; `provenance["stopping"]` has the line, the
        looks, how many prompts were used at most, the share of the work that was done, and how many cells were still
        undecided when the prompts ran out.

    Raises:
        ValueError: for a batch of fewer than 2 prompts, a line below 0, and whatever patch_sweep refuses.
    """
    chosen = plan(site, axes, task.metric if metric is None else metric, direction)
    if batch < 2:
        raise ValueError(f"batch={batch} was given; an interval needs at least 2 prompts, and about 16 to be worth it.")
    batches = [range(at, min(at + batch, len(task))) for at in range(0, len(task), batch)]
    at_each_look = level_per_look(level, len(batches))
    parts: list[HeadMap] = []
    open_cells: np.ndarray | None = None
    for prompts in batches:
        part = run_plan(model, task.subset(prompts), chosen, progress=progress, only=open_cells)
        parts.append(part)
        together = _together(parts, task)
        known = undecided(together, float(line), at_each_look)
        open_cells = known if open_cells is None else known & open_cells
        if not open_cells.any():
            break
    assert open_cells is not None
    whole = _together(parts, task)
    assert whole.samples is not None
    stopping = {
        "line": float(line),
        "level": level,
        "looks": len(parts),
        "most_prompts": len(whole.samples),
        "share_of_work": float(np.isfinite(whole.samples).sum() / (whole.values.size * len(task))),
        "undecided": int(open_cells.sum()),
    }
    own = {"task_hash": task.hash, "n_prompts": len(task), "task_details": dict(task.details)}
    return HeadMap.from_samples(
        whole.samples,
        whole.scale,
        dims=whole.dims,
        coords=whole.coords,
        name=whole.name,
        units=whole.units,
        sign=whole.sign,
        clusters=whole.clusters,
        provenance={**whole.provenance, **own, "stopping": stopping},
    )


def _together(parts: Sequence[HeadMap], task: Task) -> HeadMap:
    """One map of several that differ in their prompts."""
    first = parts[0]
    samples = np.concatenate([part.samples for part in parts if part.samples is not None])
    return HeadMap.from_samples(
        samples,
        np.concatenate([part.scale for part in parts if part.scale is not None]),
        dims=first.dims,
        coords=first.coords,
        name=first.name,
        units=first.units,
        sign=first.sign,
        clusters=task.templates[: len(samples)],
        provenance=first.provenance,
    )
