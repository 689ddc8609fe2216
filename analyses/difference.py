"""One map minus another, with what each prompt adds to the difference, so that it has an interval like any map.

A value is a ratio R = sum a / sum s over prompts. The part of prompt i in it is (a_i - R s_i) / sum s: how much R moves
when that prompt gets more weight. Parts sum to 0, and those of a difference of two ratios are the differences, so with

    d_i = (R_1 - R_2) + n * (part of i in the first - part of i in the second)

the mean of d is R_1 - R_2 exactly, and resampling d moves it as resampling the prompts moves the difference, to first
order (the infinitesimal jackknife). Where both maps come from the same prompts a prompt has both parts, and what it
does to both maps cancels; else the prompts of both maps stand side by side, each with one part.
"""

from typing import Any

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.uncertainty import scale_of_each, units_of


def difference(first: HeadMap, second: HeadMap) -> HeadMap:
    """`first` minus `second`, which have the same dims and coords; NaN where a value is missing in either.

    Positive means that the cell carries more of the clean behaviour in the first map. `samples` are the d above, in the
    units of the values. They are left out, and with them the interval, if a map has none or was made from one prompt.
    """
    values = first.values - second.values
    kept: dict[str, Any] = {}
    if all(headmap.samples is not None and len(headmap.samples) > 1 for headmap in (first, second)):
        if same_prompts(first, second):
            parts, clusters = _parts(first) - _parts(second), first.clusters
        else:
            parts = np.concatenate([_parts(first), -_parts(second)])
            sides = (("first", first), ("second", second))
            clusters = tuple(f"{side} {unit}" for side, headmap in sides for unit in units_of(headmap.clusters))
        kept = {"samples": values + len(parts) * parts, "clusters": clusters}
    alike = first.name == second.name
    return HeadMap(
        values=values,
        dims=first.dims,
        coords=first.coords,
        name=f"difference of two maps: {first.name}" if alike else f"{first.name} minus {second.name}",
        units=first.units if first.units == second.units else f"{first.units}, minus {second.units}",
        sign="Positive means that the cell carries more of the clean behaviour in the first map than in the second.",
        provenance=_origins(first, second),
        **kept,
    )


def same_prompts(first: HeadMap, second: HeadMap) -> bool:
    """Whether both maps come from the same prompts in the same order: by the task's hash, and equal clusters."""
    hashes = [headmap.provenance.get("task_hash") for headmap in (first, second)]
    if None in hashes or first.samples is None or second.samples is None:
        return False
    return hashes[0] == hashes[1] and first.clusters == second.clusters


def _parts(headmap: HeadMap) -> np.ndarray:
    """What each prompt adds to the value, [prompt, *dims]; 0 for a prompt that lacks the cell."""
    assert headmap.samples is not None and headmap.scale is not None
    samples, scale = headmap.samples.astype(np.float64), scale_of_each(headmap.samples, headmap.scale)
    missing = np.isnan(samples)
    samples, scale = np.where(missing, 0.0, samples), np.where(missing, 0.0, scale)
    below = np.where(scale.sum(0) == 0, np.nan, scale.sum(0))
    return (samples - samples.sum(0) / below * scale) / below


def _origins(first: HeadMap, second: HeadMap) -> dict[str, Any]:
    """What both maps were made from, and under "first" and "second" what differs."""
    missing = object()
    own = {"first": dict(first.provenance), "second": dict(second.provenance)}
    common = {key: value for key, value in own["first"].items() if own["second"].get(key, missing) == value}
    return {**common, **{side: {k: v for k, v in of.items() if k not in common} for side, of in own.items()}}
