"""Two maps of the same cells made ready to be shown beside each other: aligned, ranked, and held against chance."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from headlens.analyses.circuits.overlap import overlap
from headlens.analyses.comparison import Comparison, compare
from headlens.analyses.headmap import HeadMap
from headlens.numbers import decimals, reach
from headlens.pictures import interval_of, pictures, title_of

# A page can put so many cells on top, and knows for each number what chance gives.
MOST = 50


@dataclass(frozen=True, eq=False)
class Compared:
    """Two maps over the cells that both have room for, in the same order, and what `compare` says of them.

    `names` tell the maps apart. All that is missing from either map has no rank.
    """

    maps: tuple[HeadMap, HeadMap]
    names: tuple[str, str]
    comparison: Comparison

    @cached_property
    def present(self) -> np.ndarray:
        """Which cells both maps have, flat."""
        first, second = self.maps
        return ~np.isnan(first.values - second.values).reshape(-1)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Ranks [(by magnitude, by value), map, cell]: 1 is the largest, of equals the earlier; 0 is missing."""
        found = np.zeros((2, 2, self.present.size), np.int32)
        cells = np.flatnonzero(self.present)
        for at, headmap in enumerate(self.maps):
            values = headmap.values.reshape(-1)[cells]
            for by, keys in enumerate((np.abs(values), values)):
                found[by, at, cells[np.argsort(-keys, kind="stable")]] = np.arange(1, len(cells) + 1)
        return found

    @cached_property
    def labels(self) -> dict[tuple[int, ...], str]:
        """The name of every cell by its place, in the order of the flat maps."""
        return {cell: self.maps[0].label(cell) for cell in np.ndindex(self.maps[0].values.shape)}

    @property
    def strongest(self) -> list[int]:
        """The cell of largest magnitude in the first map, as [row, column]."""
        at = int(np.flatnonzero(self.ranks[0, 0] == 1)[0])
        return [*divmod(at, self.maps[0].values.shape[1])]

    @property
    def most(self) -> int:
        """How many cells can be on top."""
        return min(MOST, int(self.present.sum()))

    @property
    def shares_a_scale(self) -> bool:
        """Whether the maps measure in the same units, so that one colour scale serves both."""
        return self.maps[0].units == self.maps[1].units

    @property
    def bounds(self) -> tuple[float, float]:
        """Where each map's colour scale ends: at the larger of both where they share one."""
        first, second = (reach(headmap) for headmap in self.maps)
        larger = max(first, second)
        return (larger, larger) if self.shares_a_scale else (first, second)

    def on_top(self, top: int) -> tuple[list[str], list[str], list[str]]:
        """Labels of the cells among the `top` largest by magnitude: of both, of the first alone, of the second."""
        first, second = ((ranks > 0) & (ranks <= top) for ranks in self.ranks[0])
        labels = [*self.labels.values()]

        def named(group: np.ndarray) -> list[str]:
            return [labels[at] for at in np.flatnonzero(group)]

        return named(first & second), named(first & ~second), named(second & ~first)

    def overlap_in_words(self, top: int) -> str:
        """How many are on top of both, beside what chance gives: layer by layer for heads, over all cells otherwise."""
        if self.maps[0].dims == ("layer", "head"):
            return f"{overlap(*self.maps, top).described()} (heads drawn anew within each layer)."
        again = replace(self.comparison, **_counted(self, top))
        return (
            f"{again.overlap} of {top} shared (Jaccard {again.jaccard:.2f}); by chance {again.expected_overlap:.2g}, "
            f"p {again.overlap_p:.2g} (cells drawn from the whole map)."
        )

    def correlation_in_words(self) -> str:
        """Spearman's correlation with its interval, and where the maps do not measure the same thing."""
        found, sure = self.comparison, "no interval: a map keeps no samples of two prompts or more"
        if found.correlation_interval is not None:
            interval = found.correlation_interval
            sure = f"{interval.level:.0%} interval {interval.low:+.2f} to {interval.high:+.2f}, {interval.method}"
        notes = "".join(f" Note: {note}" for note in found.notes)
        return f"Rank correlation (Spearman) over {found.cells} cells {found.correlation:+.2f} ({sure}).{notes}"


def compared(first: HeadMap, second: HeadMap, top: int = 10, names: tuple[str, str] | None = None) -> Compared:
    """Two maps of the same two dims, at the coords that both have.

    ValueError for maps that `compare` refuses, and for maps that span no board of rows and columns.
    """
    comparison = compare(first, second, top)
    common = {dim: list(labels) for dim, labels in comparison.difference.coords.items()}
    aligned = [_as_board(headmap.sel(**common)) for headmap in (first, second)]
    return Compared((aligned[0], aligned[1]), _names(first, second) if names is None else names, comparison)


def compare_payload(found: Compared) -> dict[str, Any]:
    """The `data` of `static/compare.js`: see there."""
    rows, columns = found.maps[0].dims
    bounds = found.bounds
    coords = found.maps[0].coords
    return {
        "names": [*found.names],
        "units": [headmap.units for headmap in found.maps],
        "signs": [headmap.sign for headmap in found.maps],
        "rows": {"name": title_of(rows), "labels": [str(label) for label in coords[rows]], "tokens": None},
        "columns": {"name": title_of(columns), "labels": [str(label) for label in coords[columns]], "tokens": None},
        "cells": [*found.labels.values()],
        "bounds": [*bounds],
        "digits": [decimals(bound) for bound in bounds],
        "shared": found.shares_a_scale,
        "correlation": found.correlation_in_words(),
        "overlaps": [found.overlap_in_words(top) for top in range(1, found.most + 1)],
        "present": int(found.present.sum()),
    }


def compare_numbers(found: Compared) -> bytes:
    """Values and 95% intervals as float32 [map, (value, low, high), cell]; NaN where there are none."""
    parts = []
    for headmap in found.maps:
        interval = interval_of(headmap)
        missing = np.full(headmap.values.shape, np.nan)
        parts += [headmap.values, *((missing, missing) if interval is None else (interval.low, interval.high))]
    return np.stack(parts).astype("<f4").tobytes()


def _as_board(headmap: HeadMap) -> HeadMap:
    by_metric = pictures(headmap)
    picture = next(iter(by_metric.values()))
    if len(by_metric) > 1 or picture.inner or len(picture.outer) != 2:
        raise ValueError(
            f"Maps of ({', '.join(headmap.dims)}) were given; two maps beside each other span two dims, such as layer "
            "and head. Pick an entry of the others first, as in .sel(pos=9)."
        )
    return picture.headmap


def _names(first: HeadMap, second: HeadMap) -> tuple[str, str]:
    """What tells the maps apart: their tasks, their models, their names, or else which is which."""
    for key in ("task", "model"):
        one, other = (headmap.provenance.get(key) for headmap in (first, second))
        if isinstance(one, str) and isinstance(other, str) and one != other:
            return one, other
    if first.name != second.name:
        return first.name, second.name
    return f"{first.name} (first)", f"{second.name} (second)"


def _counted(found: Compared, top: int) -> dict[str, Any]:
    fields = ("overlap", "jaccard", "expected_overlap", "overlap_p")
    again = compare(*found.maps, top, resamples=1)
    return {name: getattr(again, name) for name in fields}
