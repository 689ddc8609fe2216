"""Attention statistics of many prompts as one map, kept on disk by the batch, so that a run that is killed goes on."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from headlens.analyses.attention_statistics import DEFAULT, head_stats
from headlens.analyses.checkpoints import Checkpoint, NotKept
from headlens.analyses.fitness import refuse_too_long
from headlens.analyses.headmap import HeadMap
from headlens.analyses.position_tokens import common_tokens
from headlens.analyses.prompts import Prompts
from headlens.analyses.row_readings import Statistic
from headlens.analyses.sinks_found import Sinks
from headlens.analyses.stats_asked import Asked, asked, of_prompts
from headlens.analyses.tokens import tokenizer_of
from headlens.hooks.model import Model
from headlens.hooks.token_kinds import Resolving

NAME = "attention statistic"


def stats_run(
    model: Model,
    prompts: Prompts,
    what: str | Sequence[str] = DEFAULT,
    groups: Mapping[str, Any] | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> HeadMap:
    """What `head_stats` measures, on prompts of any lengths, as one map.

    Several statistics and groups are a map over (layer, head, metric); one alone is a map over its own dims, NaN at
    positions that a prompt does not reach. "divergence" is between the prompts and `prompts.other`.

    Args:
        what, groups: as `head_stats` takes them; positions [prompt, n] are those of all prompts, in their order.
        run: a folder that keeps each finished batch of prompts; a run that was stopped goes on there.

    Raises:
        ValueError: for an unknown statistic or group, a statistic of single tokens beside another, "divergence" of
            prompts without others, `fixed()` sinks, prompts that are too long for the model, a function as a group of
            a run in a folder, or a folder that holds another run.
    """
    wanted = check(model, prompts, what, groups)
    if run is not None and wanted.functions:
        raise ValueError(
            f"The group {next(iter(wanted.functions))!r} is chosen by a function, and a run folder cannot tell one "
            "function from another; leave run= out, or give positions, tokens or a name."
        )
    statistics = wanted.about(slice(None))
    shapes = {name: _shape(model, prompts, statistic) for name, statistic in statistics.items()}
    samples = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    of_groups = {name: wanted.described(name)["group"] for name in wanted.groups}
    identity = {"analysis": "head_stats", **prompts.about, "statistics": [*wanted.named], "groups": of_groups}
    store = nullcontext(NotKept()) if run is None else Checkpoint.open(Path(run), identity, resume)
    with store as chunks, tqdm(total=len(prompts), unit=" prompts", disable=not progress) as bar:
        bar.set_description(f"reading {prompts.name}")
        for number, (together, length) in enumerate(prompts.batches()):
            chunk = chunks.kept(f"prompts{number:05d}", partial(_read, model, prompts, together, length, wanted))
            for name, part in chunk.items():
                samples[name][together, ..., : part.shape[-1]] = part
            bar.update(len(together))
    maps = {
        name: HeadMap.from_samples(
            samples[name],
            dims=statistic.dims,
            name=f"{NAME} {name}",
            units=statistic.units,
            sign=statistic.sign,
            clusters=prompts.templates,
            provenance={**identity, "statistic": name, **_texts(model, prompts, statistic)},
        )
        for name, statistic in statistics.items()
    }
    return as_one_map(maps) if len(maps) > 1 else next(iter(maps.values()))


def check(
    model: Model, prompts: Prompts, what: str | Sequence[str] = DEFAULT, groups: Mapping[str, Any] | None = None
) -> Asked:
    """What a run would measure, or the ValueError that it would raise."""
    refuse_too_long(model, prompts.tokens.shape[1])
    wanted = asked(what, groups, Resolving(model.tokenizer, model.hf.config), len(prompts))
    fixed = [name for name, each in wanted.functions.items() if isinstance(getattr(each, "__self__", None), Sinks)]
    if fixed:
        raise ValueError(
            f"The group {fixed[0]!r} holds the very sinks of one run, and prompts are read here by the batch; give the "
            "sinks themselves, whose rule finds those of any run."
        )
    statistics = wanted.about(slice(None))
    of_tokens = [name for name, statistic in statistics.items() if len(statistic.dims) > 2]
    if of_tokens and len(statistics) > 1:
        raise ValueError(
            f"{of_tokens[0]!r} is a number for each token, which does not fit into one map with others; ask for it "
            "alone."
        )
    if "divergence" in statistics and prompts.other is None:
        raise ValueError(
            f"'divergence' compares the clean with the corrupted prompts of a task of pairs, such as ioi, and "
            f"{prompts.name!r} has no others; leave it out."
        )
    return wanted


def as_one_map(maps: Mapping[str, HeadMap]) -> HeadMap:
    """Maps of the same dims and prompts, such as `head_stats` returns, as one with a dim metric behind the others.

    `provenance["metrics"]` has the units and the sign of each. ValueError for maps of different shapes or prompts.
    """
    first = next(iter(maps.values()))
    for name, each in maps.items():
        if each.dims != first.dims or each.values.shape != first.values.shape or each.clusters != first.clusters:
            raise ValueError(f"{name!r} is a map of {each!r}, which does not go with {first!r}; join like with like.")
    samples = [each.samples for each in maps.values() if each.samples is not None]
    scales = [each.scale for each in maps.values() if each.scale is not None]
    kept = len(samples) == len(maps)
    about = {key: value for key, value in first.provenance.items() if key not in ("statistic", "group")}
    own = {name: {"units": each.units, "sign": each.sign} for name, each in maps.items()}
    return HeadMap(
        values=np.stack([each.values for each in maps.values()], -1),
        samples=np.stack(samples, -1) if kept else None,
        scale=np.stack(scales, -1) if kept else None,
        dims=(*first.dims, "metric"),
        coords={**first.coords, "metric": [*maps]},
        name=NAME,
        units="; ".join(f"{name}: {each.units}" for name, each in maps.items()),
        sign=" ".join(f"{name}: {each.sign}" for name, each in maps.items()),
        clusters=first.clusters,
        provenance={**about, "metrics": own},
    )


def _texts(model: Model, prompts: Prompts, statistic: Statistic) -> dict[str, Any]:
    """The token at each position, for a statistic of single tokens."""
    if len(statistic.dims) == 2 or model.tokenizer is None:
        return {}
    return {"tokens": common_tokens(prompts.tokens, prompts.lengths, tokenizer_of(model))}


def _shape(model: Model, prompts: Prompts, statistic: Statistic) -> tuple[int, ...]:
    places = prompts.tokens.shape[1:] if len(statistic.dims) > 2 else ()
    return (len(prompts), model.n_layers, model.n_heads, *places)


def _read(model: Model, prompts: Prompts, together: list[int], length: int, wanted: Asked) -> dict[str, np.ndarray]:
    other = prompts.other if "divergence" in wanted.named else None
    found = head_stats(
        model,
        prompts.tokens[together, :length],
        [*wanted.named],
        groups={name: of_prompts(group, together) for name, group in wanted.groups.items()},
        other=None if other is None else other[together, :length],
        progress=False,
    )
    return {name: each.samples for name, each in found.items() if each.samples is not None}
