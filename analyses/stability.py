"""Would other prompts have put the same cells on top? How often a cell is among the strongest when prompts are redrawn.

An interval says how sure a value is; this says how sure its place is, which is what a list of the ten strongest heads
claims. It is no probability that the cell belongs there: a cell at the edge of the list is in about half the resamples.
"""

from dataclasses import replace

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.uncertainty import RESAMPLES, resample_counts, resampled_ratios, units_of


def stability(headmap: HeadMap, k: int, resamples: int = RESAMPLES, seed: int = 0) -> HeadMap:
    """The share of resamples, 0 to 1, in which each cell is among the k of largest magnitude in the whole map.

    Clusters of prompts are resampled as for `HeadMap.ci`, the same for the same seed. Of equal magnitudes the earlier
    cell is taken, as in `HeadMap.top`. Missing cells are NaN; with k cells or fewer all are 1. ValueError for a map
    without samples, for a single prompt, or for k < 1.
    """
    if headmap.samples is None or headmap.scale is None:
        raise ValueError(f"The map {headmap.name!r} keeps no samples, so nothing can be resampled.")
    if len(headmap.samples) < 2:
        raise ValueError(f"Resampling needs at least 2 prompts; this map was made from {len(headmap.samples)}.")
    if k < 1:
        raise ValueError(f"k={k} was given; expected how many cells are on top, at least 1.")
    counts = resample_counts(units_of(headmap.clusters), resamples, seed)
    times = np.zeros(headmap.values.size)
    for ratios in resampled_ratios(headmap.samples, headmap.scale, counts):
        for cells in strongest(ratios, k):
            times[cells] += 1
    shares = np.where(np.isnan(headmap.values), np.nan, (times / resamples).reshape(headmap.values.shape))
    return replace(
        headmap,
        values=shares,
        samples=None,
        name=f"stability of the top {k} by {headmap.name}",
        units="share of resamples",
        sign=f"Never negative: 1 means among the {k} largest by magnitude in every resample, 0 in none.",
        provenance={**headmap.provenance, "stability": {"k": k, "resamples": resamples, "seed": seed}},
    )


def strongest(values: np.ndarray, k: int) -> np.ndarray:
    """The k cells of largest magnitude in each row of [row, cell], largest first; NaN counts as smallest."""
    return np.argsort(-np.where(np.isnan(values), -1.0, np.abs(values)), axis=1, kind="stable")[:, :k]
