"""Do two maps tell the same story? Rank correlation, the cells on top of both, and where they differ."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from headlens.analyses.difference import difference
from headlens.analyses.headmap import HeadMap
from headlens.analyses.rank_correlation import correlation_interval, spearman
from headlens.analyses.stability import strongest
from headlens.analyses.uncertainty import RESAMPLES, Interval

# What decides whether two maps measure the same thing: the provenance's word and a person's.
_ASPECTS = {"model": "models", "task": "tasks", "site": "sites", "direction": "directions", "metric": "metrics"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two maps have in common, over the `cells` that are present in both, and `difference` = first - second.

    `correlation` is Spearman's, with its interval where both maps keep samples. `overlap` of the `k` largest by
    magnitude are in both maps, and `jaccard` is that over those in either. Two random choices would share
    `expected_overlap`, and as many as here or more with probability `overlap_p`. `notes` say in sentences where the
    maps do not measure the same thing.
    """

    first: str
    second: str
    cells: int
    correlation: float
    correlation_interval: Interval | None
    k: int
    overlap: int
    jaccard: float
    expected_overlap: float
    overlap_p: float
    difference: HeadMap
    notes: tuple[str, ...]

    def described(self) -> str:
        """All of it but the difference in words, a line each."""
        interval, sure = self.correlation_interval, "no interval: a map keeps no samples of two prompts or more"
        if interval is not None:
            sure = f"{interval.level:.0%} interval {interval.low:+.3f} to {interval.high:+.3f}, {interval.method}"
        lines = [
            f"First:  {self.first}",
            f"Second: {self.second}",
            *(f"Note: {note}" for note in self.notes),
            f"Cells in both: {self.cells}",
            f"Rank correlation (Spearman): {self.correlation:+.3f} ({sure})",
            f"Of the {self.k} largest by magnitude, {self.overlap} are in both (Jaccard {self.jaccard:.2f}); chance "
            f"gives {self.expected_overlap:.2g} on average, and as many or more with p = {self.overlap_p:.2g}",
        ]
        return "\n".join(lines)


def compare(
    first: HeadMap, second: HeadMap, k: int = 10, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two maps of the same dims, matched by their coords. The same seed gives the same intervals.

    Maps of the same prompts (equal task hash in their provenance, and equal clusters) are resampled jointly, others
    independently. With fewer than k cells in both, k is their number.

    Raises:
        ValueError: for maps of different dims or without a common cell, k < 1, or a level not between 0 and 1.
    """
    if k < 1:
        raise ValueError(f"k={k} was given; expected how many cells are on top, at least 1.")
    if not 0 < level < 1:
        raise ValueError(f"level={level} was given; an interval's level lies between 0 and 1, such as 0.95.")
    first, second = _aligned(first, second)
    present = ~np.isnan(first.values - second.values)
    cells = int(present.sum())
    if cells == 0:
        raise ValueError("The maps have no cell that is present in both, so there is nothing to compare.")
    left, right = (headmap.values[present][None] for headmap in (first, second))
    k = min(k, cells)
    overlap = len({*strongest(left, k)[0]} & {*strongest(right, k)[0]})
    return Comparison(
        first=_described(first),
        second=_described(second),
        cells=cells,
        correlation=float(spearman(left, right)[0]),
        correlation_interval=correlation_interval(first, second, level, resamples, seed),
        k=k,
        overlap=overlap,
        jaccard=overlap / (2 * k - overlap),
        expected_overlap=k * k / cells,
        overlap_p=float(hypergeom.sf(overlap - 1, cells, k, k)),
        difference=difference(first, second),
        notes=tuple(_notes(first, second)),
    )


def _aligned(first: HeadMap, second: HeadMap) -> tuple[HeadMap, HeadMap]:
    """The parts of both maps at the coords that both have, in the order of the first."""
    if first.dims != second.dims:
        one, other = (", ".join(headmap.dims) or "none" for headmap in (first, second))
        raise ValueError(
            f"The maps have different dims ({one}; {other}); only maps of the same dims in the same order can be "
            "compared. Pick an entry of a dim that one map lacks, as in .sel(pos=9)."
        )
    common = {dim: [label for label in labels if label in second.coords[dim]] for dim, labels in first.coords.items()}
    for dim, labels in common.items():
        if not labels:
            raise ValueError(f"The maps have no {dim} in common, so there is nothing to compare.")
    return first.sel(**common), second.sel(**common)


def _described(headmap: HeadMap) -> str:
    made_from = " on ".join(str(headmap.provenance[key]) for key in ("model", "task") if key in headmap.provenance)
    prompts = "" if headmap.samples is None else f", {len(headmap.samples)} prompts"
    return f"{headmap.name}{made_from and f' of {made_from}'}{prompts} ({headmap.units})"


def _notes(first: HeadMap, second: HeadMap) -> Iterator[str]:
    """Where the maps do not measure the same thing, as far as they say what they measure."""
    one, other = first.provenance, second.provenance
    said = [key for key in one if key in other]
    for key, words in _ASPECTS.items():
        if key in said and one[key] != other[key]:
            yield f"the {words} differ ({one[key]}; {other[key]})."
    if {"model", "weights_hash"} <= {*said} and one["model"] == other["model"]:
        if one["weights_hash"] != other["weights_hash"]:
            yield f"the weights differ, though both models are called {one['model']}."
    if first.units != second.units:
        yield f"the units differ ({first.units}; {second.units}), so look at the ranks and not at the difference."
