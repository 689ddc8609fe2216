"""Carrying a sweep out: groups of prompts, bands of cells, chunks on disk, and the map they come to."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.cell_grid import Grid, grid, places
from headlens.analyses.checkpoints import Checkpoint, NotKept
from headlens.analyses.chunking import bands, largest_group, packs
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.half_precision import Effects, compared, drawn, in_float32, in_words, is_half
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import measured, tokens_of
from headlens.analyses.positions import checked
from headlens.analyses.prompt_groups import PromptGroup
from headlens.analyses.provenance import origin
from headlens.analyses.sources import fills, groups_of, runs_of
from headlens.analyses.sweep_map import as_map, refuse_alike, unmoved
from headlens.analyses.sweep_plan import Plan
from headlens.analyses.task import Task
from headlens.hooks.cells import Rows
from headlens.hooks.host_memory import keep_freed_memory
from headlens.hooks.model import Model
from headlens.hooks.packing import packed_linears
from headlens.hooks.plain import Plain
from headlens.hooks.reading import Read
from headlens.hooks.sweep import Engine, Fill, Pairs, Replayed
from headlens.hooks.trial import why_not_replayed

_Pairs = Callable[[PromptGroup], Pairs]


@dataclass(frozen=True, eq=False)
class _Sweep:
    """What is patched: cells at places [cell, place], in groups of a task's prompts."""

    task: Task
    plan: Plan
    cells: Grid
    wanted: np.ndarray
    groups: list[PromptGroup]
    largest: int


def swept(
    model: Model, task: Task, plan: Plan, folder: Path | None, resume: bool, progress: bool, only: np.ndarray | None
) -> HeadMap:
    """The map of a plan; see `patch_sweep`."""
    refuse_unfit(model, task)
    checked(plan.positions, task)
    cells, largest = grid(model, task, plan), largest_group(model, task, plan)
    groups = groups_of(task, plan, largest)
    if not groups:
        raise ValueError(f"No pair of task {task.name!r} differs before END; there is nothing to patch.")
    sweep = _Sweep(task, plan, cells, _wanted(cells, only), groups, largest)
    rows = sum(len(group.indices) * (group.length - group.start) for group in groups) * int(sweep.wanted.sum())
    keep_freed_memory()
    with packed_linears(model) if packs(model, plan, rows) else nullcontext():
        pairs = partial(_pairs, model, sweep, fills(model, task, plan, largest))
        engine, reason = _tried(model, sweep, pairs)
        method = "replay" if reason is None else f"plain forwards, since {reason}"
        provenance = {**origin(model, task), **plan.described(), "method": method}
        identity = {**provenance, "memory": plan.memory}
        store = nullcontext(NotKept()) if folder is None else Checkpoint.open(folder, identity, resume)
        with (
            store as chunks,
            tqdm(total=int(sweep.wanted.sum()) * len(task), unit=" cells", disable=not progress) as bar,
        ):
            bar.set_description(f"patching {task.name}")
            samples, scale = _effects(model, sweep, engine, pairs, chunks, bar)
            refuse_alike(task, plan, scale)
            if only is None and is_half(model):
                provenance |= _beside_float32(model, sweep, (samples, scale), chunks)
    samples[:, ~sweep.wanted] = np.nan
    return as_map(model, task, plan, cells, samples, scale, provenance, name="patching effect")


def _tried(model: Model, sweep: _Sweep, pairs: _Pairs) -> tuple[Replayed | Plain, str | None]:
    """The engine on the first group, and why it has to be the plain one, if so."""
    group = sweep.groups[0]
    first_and_last = [sweep.cells.cells[at] for at in np.flatnonzero(sweep.wanted.any(1))[[0, -1]]]
    engine = Replayed(model, pairs(group))
    reason = why_not_replayed(engine, first_and_last, _middle(sweep.task, sweep.plan, group))
    return engine if reason is None else Plain(model, engine.pairs), reason


def _effects(
    model: Model, sweep: _Sweep, engine: Replayed | Plain, pairs: _Pairs, chunks: Checkpoint | NotKept, bar: tqdm
) -> Effects:
    """Effects [prompt, cell, place, metric] and scale [prompt, metric] of all groups; `engine` has the first one."""
    task, plan = sweep.task, sweep.plan
    samples, scale = unmoved(task, plan, sweep.cells), np.zeros((len(task), len(plan.metrics)), np.float32)
    for number, group in enumerate(sweep.groups):
        if number > 0:
            # what the engine has found out about its machine holds for the next group
            engine = replace(engine, pairs=pairs(group))
        prompts, reached = list(group.indices), [place for place, _ in places(task, plan, group)]
        for band in bands(model, np.flatnonzero(sweep.wanted.any(1)), group, plan):
            compute = partial(_band, engine, band, sweep.cells, group, task, plan, sweep.wanted)
            chunk = chunks.kept(f"group{number:04d}-cell{band[0]:05d}", compute)
            samples[np.ix_(prompts, band.tolist(), reached)] = chunk["samples"]
            scale[prompts] = chunk["scale"]
            bar.update(int(sweep.wanted[band].sum()) * len(prompts))
    return samples, scale


def _beside_float32(model: Model, sweep: _Sweep, found: Effects, chunks: Checkpoint | NotKept) -> dict[str, Any]:
    """What half precision did to a sample of the cells, for the map's provenance; a report, whatever it says."""
    sample = drawn(found[0], [prompt for group in sweep.groups for prompt in group.indices])
    fewer = [replace(group, indices=some) for group in sweep.groups if (some := sample.of(group.indices))]

    def again(twin: Model) -> Effects:
        part = replace(sweep, wanted=sample.cells, groups=fewer)
        pairs = partial(_pairs, twin, part, fills(twin, sweep.task, sweep.plan, sweep.largest))
        return _effects(twin, part, _tried(twin, part, pairs)[0], pairs, NotKept(), tqdm(disable=True))

    dtype = str(model.dtype).removeprefix("torch.")
    try:
        exact = chunks.kept("float32", lambda: in_float32(model, sample, again))
    except ValueError as error:
        report = {"dtype": dtype, "not_compared": str(error)}
    else:
        report = compared(found, sample, exact, dtype)
    return {"half_precision": report, "in_words": in_words(report)}


def _wanted(cells: Grid, only: np.ndarray | None) -> np.ndarray:
    """Which cells are patched, as booleans [cell, place]."""
    shape = (len(cells.cells), cells.places)
    return np.ones(shape, bool) if only is None else only.reshape(shape)


def _pairs(model: Model, sweep: _Sweep, fill: Callable[[PromptGroup], Fill | None], group: PromptGroup) -> Pairs:
    plan = sweep.plan
    base, other = (group.rows(tokens).to(model.device) for tokens in runs_of(sweep.task, plan))
    tokens = tokens_of(plan.metrics, sweep.task.subset(group.indices))
    read = Read(None if tokens is None else tokens.to(model.device))
    return Pairs(base, other, group.start, read, plan.engine_site, fill(group))


def _middle(task: Task, plan: Plan, group: PromptGroup) -> Rows:
    """Where the engine is tried: at a place with positions on both sides, if the sweep patches single ones."""
    some = places(task, plan, group)
    return some[len(some) // 2][1]


def _band(
    engine: Engine, band: np.ndarray, cells: Grid, group: PromptGroup, task: Task, plan: Plan, wanted: np.ndarray
) -> dict[str, np.ndarray]:
    """Some cells on one group at every place that may move: effects [prompt, cell, place, metric] and scale [prompt,
    metric], in the metrics' units."""
    own = task.subset(group.indices)
    denoising = plan.direction == "denoising"
    clean = (engine.other_logits if denoising else engine.base_logits)[:, -1].float()

    def measure(logits: Tensor) -> Tensor:
        return measured(plan.metrics, logits[:, :, -1].float(), own, clean).cpu()

    base, other = (measure(logits[None])[0] for logits in (engine.base_logits, engine.other_logits))
    toward = 1 if denoising else -1
    where = places(task, plan, group)
    effects = torch.zeros(len(group.indices), len(band), len(where), len(plan.metrics))
    for index, (place, rows) in enumerate(where):
        asked = np.flatnonzero(wanted[band, place])
        if len(asked):
            patched = engine.patched([cells.cells[at] for at in band[asked]], rows, measure)
            effects[:, asked, index] = (toward * (patched - base)).transpose(0, 1)
    return {"samples": effects.numpy(), "scale": (toward * (other - base)).numpy()}
