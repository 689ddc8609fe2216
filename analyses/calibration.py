"""Calibrating attention sinks: which heads answer better when their sinks are weakened, and what is that worth?

The Attention Calibration Technique (ACT, 2406.15765) leaves a head's attention sinks (`headlens.hooks.sink_rule`)
`beta` of their attention and gives the rest to the row's other keys. That helps some heads and harms others, so each is
tried alone on held-out prompts and kept if accuracy rises. Otherwise than in the paper and its code, here

- all heads are ranked first by the gradient of the right choice's log-probability, and the best are tried;
- a head is kept by a paired test (McNemar), since of the heads that do nothing many have some gain;
- heads are chosen on half A of the prompts, and what all of them together are worth is measured on half B, beside
  random sets of as many heads in each layer;
- sinks are detected causally, so that generation step by step agrees with one whole run. The paper's own detection is
  SinkRule("prefill_column").
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from headlens.analyses.calibration_result import Calibration
from headlens.analyses.calibration_settings import Settings, rule_of
from headlens.analyses.checkpoints import RESULT_FILE, Checkpoint, NotKept
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.head_search import HeadSearch
from headlens.analyses.head_sets import random_head_sets
from headlens.analyses.headmap import HeadMap
from headlens.analyses.null_sets import among_random_sets
from headlens.analyses.paired_accuracy import accuracy_gain, gain_in_points, mcnemar_greater
from headlens.analyses.provenance import origin
from headlens.analyses.splits import halves
from headlens.hooks.host_memory import keep_freed_memory
from headlens.hooks.model import Model
from headlens.hooks.packing import packed_linears
from headlens.hooks.sites import Head

# The first layer that the paper calibrates: below, attention is nearly uniform.
_FIRST_LAYER = 2


def calibrate(
    model: Model,
    task: ChoiceTask,
    sinks: Any = None,
    beta: float = 0.4,
    *,
    layers: Sequence[int] | None = None,
    candidates: int | None = 60,
    level: float = 0.05,
    sets: int = 20,
    seed: int = 0,
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Calibration:
    """Select the heads whose calibration makes answers better on half of a task, and measure it on the other half.

    Args:
        sinks: a SinkRule, or what `find_sinks` returned, which stands for its rule. Without, SinkRule().
        beta: the share of their attention that sinks keep.
        layers: whose heads are tried. Without, all from the third on, or all of a model of three layers or fewer.
        candidates: how many heads are tried on half A, those of largest first-order gain; None tries all. Heads without
            a sink on half A are not tried.
        level: the p at which a head is kept. 1 keeps every head with any gain, as the paper does.
        sets: how many random sets of heads the selected ones are held against.
        run: a folder that keeps finished parts and the map of measured gains; a run that was stopped goes on there.

    Returns:
        A Calibration: `.selected`, `.held_out`, `.null`, `.edit()`, `.described()`.

    Raises:
        ValueError: for settings that do not fit, a model that is not a causal language model, a task of fewer than 4
            prompts, a rule by which no head has a sink on half A, or a folder that holds another run.
    """
    settings = Settings(rule_of(sinks), beta, candidates, level, sets, seed)
    refuse_unfit(model, task)
    pool = pool_of(model, layers)
    first, second = split(task, seed)
    identity = {"analysis": "calibrate", **origin(model, task), **settings.plain()}
    identity |= {"layers": sorted({head.layer for head in pool})}
    folder = None if run is None else Path(run)
    store = nullcontext(NotKept()) if folder is None else Checkpoint.open(folder, identity, resume)
    with store as chunks, tqdm(unit=" runs", desc=f"calibrating {task.name}", disable=not progress) as bar:
        a, b = (
            HeadSearch(model, task.subset(half.tolist()), name, pool, settings.edit_of, chunks)
            for name, half in (("a", first), ("b", second))
        )
        found = _searched(a, b, settings, {**identity, "half_a": first.tolist(), "n_prompts": len(a.task)}, bar)
        if folder is not None:
            found.measured.save(folder / RESULT_FILE)
    return found


def _searched(a: HeadSearch, b: HeadSearch, settings: Settings, about: dict[str, Any], bar: tqdm) -> Calibration:
    """Select on `a`, measure on `b`."""
    keep_freed_memory()
    slopes = a.first_order()
    estimate = HeadMap.from_samples(
        slopes,
        dims=("layer", "head"),
        name="calibration to first order",
        units="log-probability of the right choice (nats)",
        sign="Positive means that right answers become likelier.",
        clusters=a.task.templates,
        provenance={**about, "method": "gradient"},
    )
    # a head that has no sink says what it said
    with_sinks = [head for head in a.pool if (slopes[:, head.layer, head.head] != 0).any()]
    _refuse_without_sinks(a, with_sinks, settings)
    tried = sorted(with_sinks, key=lambda head: -estimate.values[head])[: settings.candidates]
    bar.reset(total=len(tried))
    with packed_linears(a.model):
        before, *after = a.alone(tried)
        bar.update(len(tried))
        p = mcnemar_greater(before, np.array(after))
        passed = (np.mean(after, 1) > before.mean()) & (p <= settings.level)
        selected = tuple(sorted(head for head, kept in zip(tried, passed, strict=True) if kept))
        base, held_out, null = b.right("none"), None, None
        if selected:
            others = random_head_sets(selected, a.pool, settings.sets, settings.seed)
            held_out = accuracy_gain(base, b.right("selected", selected), b.task.templates, seed=settings.seed)
            gains = [gain_in_points(base, b.right(f"random-{at:03d}", heads)) for at, heads in enumerate(others)]
            null = among_random_sets(held_out.points, np.array(gains))
    method = "replay" if a.why_not_replayed is None else f"plain forwards, since {a.why_not_replayed}"
    measured = HeadMap.from_samples(
        _on_grid(a, tried, 100 * (np.array(after, np.float32) - before)),
        dims=("layer", "head"),
        name="calibration gain",
        units="accuracy, percentage points on half A of the prompts",
        sign="Positive means more right answers with the head's sinks calibrated.",
        clusters=a.task.templates,
        provenance={**about, "method": method},
    )
    found = Calibration(
        selected=selected,
        settings=settings,
        estimate=estimate,
        measured=measured,
        p=_on_grid(a, tried, p[:, None])[0],
        with_sinks=len(with_sinks),
        accuracy=(float(before.mean()), float(base.mean())),
        chance=a.task.chance,
        held_out=held_out,
        null=null,
    )
    # whoever meets the map alone, in a report or a file, learns what the choice is worth
    outcome = {key: found.plain()[key] for key in ("selected", "held_out", "null", "in_words")}
    return replace(found, measured=replace(measured, provenance={**measured.provenance, **outcome}))


def _refuse_without_sinks(a: HeadSearch, with_sinks: Sequence[Head], settings: Settings) -> None:
    if not with_sinks:
        shortest, longest = int(a.task.lengths.min()), int(a.task.lengths.max())
        raise ValueError(
            f"On half A, of prompts of {shortest} to {longest} tokens, no head has a sink that would lose attention by "
            f"beta={settings.beta} and {settings.rule}; give longer prompts, a smaller alpha or min_rows, or layers."
        )


def split(task: ChoiceTask, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The task's prompts in halves A and B, as `halves` has it; prompts that ask the same stay in one half."""
    answers = task.choices.gather(1, task.answers[:, None])[:, 0].tolist()
    return halves(len(task), task.templates, answers, seed, task.items)


def pool_of(model: Model, layers: Sequence[int] | None) -> list[Head]:
    """The heads of these layers, which may be selected; ValueError for a layer that the model does not have."""
    skipped = _FIRST_LAYER if model.n_layers > _FIRST_LAYER + 1 else 0
    chosen = range(skipped, model.n_layers) if layers is None else sorted({*layers})
    for layer in chosen:
        if not 0 <= layer < model.n_layers:
            raise ValueError(f"layers={list(chosen)} was given; the model has layers 0 to {model.n_layers - 1}.")
    if not chosen:
        raise ValueError("layers=[] was given; name at least one layer whose heads are tried.")
    return [Head(layer, head) for layer in chosen for head in range(model.n_heads)]


def _on_grid(search: HeadSearch, heads: Sequence[Head], found: np.ndarray) -> np.ndarray:
    """[head, prompt] as [prompt, layer, head], NaN for other heads."""
    out = np.full((found.shape[1], search.model.n_layers, search.model.n_heads), np.nan)
    for row, (layer, head) in zip(found, heads, strict=True):
        out[:, layer, head] = row
    return out
