"""What `static/heatmap.js` draws, as plain values that fit a page: every number to two digits more than are shown."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from headlens.numbers import decimals, reach
from headlens.pictures import Picture, interval_of, title_of
from headlens.token_labels import token_labels

TOP = 15


def page_data(by_metric: Mapping[str, Picture]) -> dict[str, Any]:
    """The pictures of a map, by metric, as values for JSON; `static/heatmap.js` says what each of them is.

    ValueError for a map that holds infinite numbers.
    """
    picture = next(iter(by_metric.values()))
    outer, inner = _names(picture)
    return {
        "dims": [_dim(picture, dim) for dim in (*picture.outer, *picture.inner)],
        "outer": len(picture.outer),
        "names": outer,
        "entries": inner,
        "parts": [{"metric": metric, **_numbers(part)} for metric, part in by_metric.items()],
        "noun": picture.noun,
        "top": TOP,
    }


def steps(numbers: np.ndarray, digits: int | None) -> tuple[list[int | float | None], float | None]:
    """Numbers, flat, in whole steps of a hundredth of the last digit shown, and that step; None is missing.

    n stands for (n + 1/2) * step, the middle of the step that the number lies in: the middle is shown as the number is,
    because no step reaches over a place where rounding turns (a number at such a place is rounded up). Without
    `digits` they are the numbers as shown, and the step is None. ValueError for infinite numbers.
    """
    flat = numbers.reshape(-1).astype(np.float64)
    if np.isinf(flat).any():
        raise ValueError("This map holds infinite numbers, which a page cannot show; make them NaN, which is missing.")
    if digits is None:
        return [None if number != number else float(f"{number:.2e}") for number in flat], None
    floors = np.floor(flat * 10 ** (digits + 2))
    return [None if number != number else int(number) for number in floors], 10.0 ** -(digits + 2)


def _names(picture: Picture) -> tuple[list[str], list[str]]:
    """What the cells of the outer dims are called, and what is added to that for each entry of the inner dims."""
    shape = picture.headmap.values.shape
    split = len(picture.outer)
    outer = [picture.at_peaks.label(cell) for cell in np.ndindex(shape[:split])]
    first = (0,) * split
    whole = [picture.headmap.label((*first, *cell)) for cell in np.ndindex(shape[split:])]
    return outer, [name.removeprefix(outer[0]) for name in whole]


def _dim(picture: Picture, dim: str) -> dict[str, Any]:
    labels = [str(label) for label in picture.headmap.coords[dim]]
    return {"name": title_of(dim), "labels": labels, "tokens": token_labels(picture.headmap, dim)}


def _numbers(picture: Picture) -> dict[str, Any]:
    headmap, interval = picture.headmap, interval_of(picture.headmap)
    bound = reach(headmap)
    digits = decimals(bound)
    values, step = steps(headmap.values, digits)
    return {
        "units": headmap.units,
        "bound": bound,
        "digits": digits,
        "step": step,
        "values": values,
        "low": None if interval is None else steps(interval.low, digits)[0],
        "high": None if interval is None else steps(interval.high, digits)[0],
        "level": None if interval is None else interval.level,
    }
