"""Carrying a sweep out: groups of prompts, bands of cells, chunks on disk, and the map they come to."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.cell_grid import Grid, grid, places, there
from headlens.analyses.checkpoints import Checkpoint, NotKept
from headlens.analyses.chunking import bands, largest_group, packs
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import measured, tokens_of
from headlens.analyses.position_tokens import position_tokens
from headlens.analyses.positions import checked
from headlens.analyses.prompt_groups import PromptGroup
from headlens.analyses.provenance import origin
from headlens.analyses.sources import fills, groups_of, runs_of
from headlens.analyses.sweep_plan import Plan, has_heads
from headlens.analyses.task import Task
from headlens.analyses.tokens import tokenizer_of, vocabulary_of
from headlens.hooks.cells import Rows
from headlens.hooks.host_memory import keep_freed_memory
from headlens.hooks.model import Model
from headlens.hooks.packing import packed_linears
from headlens.hooks.plain import Plain
from headlens.hooks.replay import Read
from headlens.hooks.sites import MAIN
from headlens.hooks.sweep import Engine, Fill, Pairs, Replayed
from headlens.hooks.trial import why_not_replayed

# A smaller part of the clean-corrupted difference than this is rounding, and an effect relative to it is noise.
SMALLEST_SCALE = 1e-6


def swept(
    model: Model, task: Task, plan: Plan, folder: Path | None, resume: bool, progress: bool, only: np.ndarray | None
) -> HeadMap:
    """The map of a plan; see `patch_sweep`."""
    _refuse_unfit(model, task)
    checked(plan.positions, task)
    cells = grid(model, task, plan)
    largest = largest_group(model, task, plan)
    groups = groups_of(task, plan, largest)
    if not groups:
        raise ValueError(f"No pair of task {task.name!r} differs before END; there is nothing to patch.")
    wanted = _wanted(cells, only)
    samples, scale = _unmoved(task, plan, cells), np.zeros((len(task), len(plan.metrics)), np.float32)
    keep_freed_memory()
    with packed_linears(model) if packs(model, plan) else nullcontext():
        fill = fills(model, task, plan, largest)
        engine: Engine = Replayed(model, _pairs(model, task, groups[0], plan, fill(groups[0])))
        reason = why_not_replayed(engine, [cells.cells[0], cells.cells[-1]], _middle(task, plan, groups[0]))
        method = "replay" if reason is None else f"plain forwards, since {reason}"
        provenance = {**origin(model, task), **plan.described(), "method": method}
        identity = {**provenance, "memory": plan.memory}
        store = nullcontext(NotKept()) if folder is None else Checkpoint.open(folder, identity, resume)
        with store as chunks, tqdm(total=wanted.size * len(task), unit=" cells", disable=not progress) as bar:
            bar.set_description(f"patching {task.name}")
            for number, group in enumerate(groups):
                # the first group's runs are there already: the engine was tried on them
                if number > 0 or reason is not None:
                    pairs = _pairs(model, task, group, plan, fill(group))
                    engine = (Replayed if reason is None else Plain)(model, pairs)
                for band in bands(len(cells.cells), group, plan):
                    compute = partial(_band, engine, band, cells, group, task, plan, wanted)
                    chunk = chunks.kept(f"group{number:04d}-cell{band.start:05d}", compute)
                    prompts = list(group.indices)
                    reached = [place for place, _ in places(task, plan, group)]
                    samples[np.ix_(prompts, range(band.start, band.stop), reached)] = chunk["samples"]
                    scale[prompts] = chunk["scale"]
                    bar.update((band.stop - band.start) * cells.places * len(prompts))
    samples[:, ~wanted] = np.nan
    _refuse_alike(task, plan, scale)
    return _headmap(model, task, plan, cells, samples, scale, provenance)


def _refuse_unfit(model: Model, task: Task) -> None:
    if (
        model.hf.config.is_encoder_decoder
        or not model.towers[MAIN].is_causal
        or model.hf.get_output_embeddings() is None
    ):
        raise ValueError(
            f"{model.name!r} ({type(model.hf).__name__}) is not a causal language model; a sweep reads the next "
            "token's logits, so give a decoder such as Llama or GPT-2."
        )
    task.check_vocabulary(vocabulary_of(model))


def _refuse_alike(task: Task, plan: Plan, scale: np.ndarray) -> None:
    for metric, mean in zip(plan.metrics, scale.mean(0), strict=True):
        if abs(float(mean)) < SMALLEST_SCALE:
            raise ValueError(
                f"On task {task.name!r} the model's {metric.name} is the same for clean and corrupted prompts, so "
                "there is nothing to restore or destroy; use prompts on which it tells them apart."
            )


def _wanted(cells: Grid, only: np.ndarray | None) -> np.ndarray:
    """Which cells are patched, as booleans [cell, place]."""
    shape = (len(cells.cells), cells.places)
    return np.ones(shape, bool) if only is None else only.reshape(shape)


def _unmoved(task: Task, plan: Plan, cells: Grid) -> np.ndarray:
    """Effects [prompt, cell, place, metric] before anything is patched: 0, and NaN at places that a prompt lacks."""
    row = np.where(there(task, plan, cells), np.float32(0), np.float32(np.nan))
    shape = (len(task), len(cells.cells), cells.places, len(plan.metrics))
    return np.broadcast_to(row[:, None, :, None], shape).copy()


def _pairs(model: Model, task: Task, group: PromptGroup, plan: Plan, fill: Fill | None) -> Pairs:
    base, other = (group.rows(tokens).to(model.device) for tokens in runs_of(task, plan))
    tokens = tokens_of(plan.metrics, task.subset(group.indices))
    read = Read(None if tokens is None else tokens.to(model.device))
    return Pairs(base, other, group.start, read, plan.engine_site, fill)


def _middle(task: Task, plan: Plan, group: PromptGroup) -> Rows:
    """Where the engine is tried: at a place with positions on both sides, if the sweep patches single ones."""
    some = places(task, plan, group)
    return some[len(some) // 2][1]


def _band(
    engine: Engine, band: slice, cells: Grid, group: PromptGroup, task: Task, plan: Plan, wanted: np.ndarray
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
    effects = torch.zeros(len(group.indices), band.stop - band.start, len(where), len(plan.metrics))
    for index, (place, rows) in enumerate(where):
        asked = np.flatnonzero(wanted[band, place])
        if len(asked):
            patched = engine.patched([cells.cells[band.start + at] for at in asked], rows, measure)
            effects[:, asked, index] = (toward * (patched - base)).transpose(0, 1)
    return {"samples": effects.numpy(), "scale": (toward * (other - base)).numpy()}


def _headmap(
    model: Model, task: Task, plan: Plan, cells: Grid, samples: np.ndarray, scale: np.ndarray, provenance: dict
) -> HeadMap:
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
        name="patching effect" if plan.site == "z" else f"patching effect of {plan.site}",
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
