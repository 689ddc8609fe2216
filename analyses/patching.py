"""Activation patching over every head: how much of the clean behaviour does each head's z carry?

The two runs of a prompt pair differ; one head's z of one run is put into the other, and the metric moves from the
unpatched value towards the other run's (2202.05262, 2211.00593, 2404.15255):

- denoising: the corrupted run gets the clean z; effect = (patched - corrupted) / (clean - corrupted);
- noising: the clean run gets the corrupted z; effect = (clean - patched) / (clean - corrupted).

Both are 0 for no change and 1 for a head that restores (denoising) or destroys (noising) everything; positive means
that the head carries the clean behaviour. Prompts are averaged above and below the fraction line separately, so that
one pair with a small difference cannot dominate.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from headlens.analyses.checkpoints import RESULT_FILE, Checkpoint, NotKept
from headlens.analyses.chunking import bands, largest_group, packs
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import named
from headlens.analyses.prompt_groups import PromptGroup, group_prompts
from headlens.analyses.provenance import origin
from headlens.analyses.sweep_plan import Plan
from headlens.analyses.tasks import Task
from headlens.analyses.tokens import vocabulary_of
from headlens.hooks.host_memory import keep_freed_memory
from headlens.hooks.model import Model
from headlens.hooks.packing import packed_linears
from headlens.hooks.sites import MAIN, Head
from headlens.hooks.sweep import Engine, Pairs, Plain, Replayed, why_not_replayed

# A smaller part of the clean-corrupted difference than this is rounding, and an effect relative to it is noise.
SMALLEST_SCALE = 1e-6


def patch_sweep(
    model: Model,
    task: Task,
    site: str = "z",
    axes: Sequence[str] = ("layer", "head"),
    metric: str = "logit_diff",
    direction: str = "denoising",
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    memory: str | int = "1GiB",
) -> HeadMap:
    """Patch every head (and position) of `model` on every prompt pair of `task`; exact, by replay where possible.

    Args:
        axes: `("layer", "head")` patches a head at all positions, `("layer", "head", "pos")` at one at a time.
        direction: `"denoising"` puts clean z into the corrupted run, `"noising"` the reverse.
        run: a folder that receives each finished chunk and, at the end, the map (`headmap.safetensors`); a later call
            with the same arguments goes on from there.
        resume: False starts the folder afresh.
        memory: bound on what is kept of the base runs; more prompts than fit are swept in groups.

    Returns:
        A HeadMap with per-prompt effects in the metric's units (`samples`), the clean-minus-corrupted difference of
        each prompt (`scale`), and `values` = mean of samples / mean of scale. Positions that a prompt does not have
        are NaN.

    Raises:
        ValueError: for unknown arguments, a model that is not a causal language model, a run folder that holds another
            sweep, or a task on which clean and corrupted do not differ.
    """
    plan = Plan(site, tuple(axes), metric, direction, memory)
    _refuse_unfit(model, task)
    groups = group_prompts(task, largest_group(model, task, plan))
    if not groups:
        raise ValueError(f"No pair of task {task.name!r} differs before END; there is nothing to patch.")
    folder = None if run is None else Path(run)
    samples, scale = _unmoved(model, task, plan), np.zeros(len(task), np.float32)
    keep_freed_memory()
    with packed_linears(model) if packs(model, plan) else nullcontext():
        engine: Engine = Replayed(model, _pairs(model, task, groups[0], plan))
        reason = why_not_replayed(engine, _tried_at(groups[0], plan))
        method = "replay" if reason is None else f"plain forwards, since {reason}"
        provenance = {**origin(model, task), **plan.described(), "method": method}
        identity = {**provenance, "memory": memory}
        store = nullcontext(NotKept()) if folder is None else Checkpoint.open(folder, identity, resume)
        with store as chunks, _bar(model, task, progress) as bar:
            for number, group in enumerate(groups):
                # the first group's runs are there already: the engine was tried on them
                if number > 0 or reason is not None:
                    engine = (Replayed if reason is None else Plain)(model, _pairs(model, task, group, plan))
                prompts = list(group.indices)
                for band in bands(model, group, plan):
                    compute = partial(_band, engine, band, model.n_heads, group, task, plan)
                    chunk = chunks.kept(f"group{number:04d}-layer{band.start:03d}", compute)
                    samples[prompts, band.start : band.stop, :, *_positions(group, plan)] = chunk["samples"]
                    scale[prompts] = chunk["scale"]
                    bar.update(len(band) * model.n_heads * len(prompts))
    if abs(float(scale.mean())) < SMALLEST_SCALE:
        raise ValueError(
            f"On task {task.name!r} the model's {metric} is the same for clean and corrupted prompts, so there is "
            "nothing to restore or destroy; use prompts on which it tells them apart."
        )
    verb = "restores" if direction == "denoising" else "destroys"
    headmap = HeadMap.from_samples(
        samples,
        scale,
        dims=plan.axes,
        name="patching effect",
        units=f"fraction of the clean-corrupted difference in {named(metric).units}",
        sign=f"Positive means that the head carries the clean behaviour; 1 means that patching it {verb} all of it.",
        clusters=task.templates,
        provenance=provenance,
    )
    if folder is not None:
        headmap.save(folder / RESULT_FILE)
    return headmap


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


def _pairs(model: Model, task: Task, group: PromptGroup, plan: Plan) -> Pairs:
    clean, corrupted = (group.rows(tokens).to(model.device) for tokens in (task.clean_tokens, task.corrupted_tokens))
    base, source = (corrupted, clean) if plan.direction == "denoising" else (clean, corrupted)
    read = named(plan.metric).read(task)[list(group.indices)].to(model.device)
    return Pairs(base, source, group.start, read)


def _tried_at(group: PromptGroup, plan: Plan) -> int | None:
    """The position at which the engine is tried: one with prefix and suffix, if the sweep patches single positions."""
    return (group.start + group.length) // 2 if plan.by_position else None


def _positions(group: PromptGroup, plan: Plan) -> tuple[slice, ...]:
    """The part of the position axis that a group computes; before it nothing differs."""
    return (slice(group.start, group.length),) if plan.by_position else ()


def _unmoved(model: Model, task: Task, plan: Plan) -> np.ndarray:
    """Effects before anything is patched: 0, and NaN at positions that a prompt does not have."""
    if not plan.by_position:
        return np.zeros((len(task), model.n_layers, model.n_heads), np.float32)
    beyond = np.arange(task.clean_tokens.shape[1]) >= task.lengths.numpy()[:, None]
    row = np.where(beyond, np.float32(np.nan), np.float32(0))
    return np.repeat(np.repeat(row[:, None, None], model.n_layers, 1), model.n_heads, 2)


def _band(
    engine: Engine, band: range, n_heads: int, group: PromptGroup, task: Task, plan: Plan
) -> dict[str, np.ndarray]:
    """All cells of some layers on one group: effects [prompt, layer, head(, pos)] and scale [prompt], in the metric's
    units."""
    metric = named(plan.metric)
    cells = [Head(layer, head) for layer in band for head in range(n_heads)]
    where: list[int | None] = list(range(group.start, group.length)) if plan.by_position else [None]
    logits = torch.stack([engine.patched(cells, pos) for pos in where])
    patched = metric.compute(logits.float().cpu()).unflatten(1, (len(band), n_heads))  # pos layer head prompt
    base, source = (metric.compute(logits.float().cpu()) for logits in (engine.base_logits, engine.source_logits))
    toward = 1 if plan.direction == "denoising" else -1
    effects = toward * (patched - base).permute(3, 1, 2, 0)
    return {
        "samples": (effects if plan.by_position else effects[..., 0]).contiguous().numpy(),
        "scale": (toward * (source - base)).numpy(),
    }


def _bar(model: Model, task: Task, progress: bool) -> tqdm:
    cells = model.n_layers * model.n_heads * len(task)
    return tqdm(total=cells, unit=" cells", desc=f"patching {task.name}", disable=not progress)
