"""Do two maps put their cells in the same order? Spearman's rank correlation, and how sure it is.

Noise draws a rank correlation towards 0: once in the data, once more in every resample. So the usual percentile
interval lies too low, often below the estimate itself. The interval here is reflected about the estimate
(2 * estimate - q, the basic bootstrap), which makes up for that, and cut at -1 and 1. Where most cells are noise it is
still too low.
"""

import numpy as np
from scipy.stats import rankdata

from headlens.analyses.difference import same_prompts
from headlens.analyses.headmap import HeadMap
from headlens.analyses.uncertainty import Interval, counted, resample_counts, resampled_ratios, units_of


def spearman(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of two arrays [row, cell], over the cells that are NaN in neither.

    Equal values share their mean rank. NaN where a row has fewer than two cells or all its values are equal.
    """
    present = ~np.isnan(left - right)
    count = np.maximum(present.sum(1, keepdims=True), 1)
    one, other = (_centred_ranks(side, present, count) for side in (left, right))
    spread = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return np.divide((one * other).sum(1), spread, out=np.full(len(spread), np.nan), where=spread > 0)


def correlation_interval(first: HeadMap, second: HeadMap, level: float, resamples: int, seed: int) -> Interval | None:
    """The interval of `spearman` between two maps of the same coords, over their prompts (clusters are resampled).

    Jointly for maps of the same prompts, so that what the prompts do to both stays together; else independently. None
    where a map keeps no samples of two prompts or more, or where no resample has a correlation.
    """
    if first.samples is None or second.samples is None or min(len(first.samples), len(second.samples)) < 2:
        return None
    assert first.scale is not None and second.scale is not None
    jointly = same_prompts(first, second)
    units, others = units_of(first.clusters), units_of(second.clusters)
    blocks = zip(
        resampled_ratios(first.samples, first.scale, resample_counts(units, resamples, seed)),
        resampled_ratios(second.samples, second.scale, resample_counts(others, resamples, seed + (not jointly))),
        strict=True,
    )
    resampled = np.concatenate([spearman(left, right) for left, right in blocks])
    if np.isnan(resampled).all():
        return None
    estimate = spearman(first.values.reshape(1, -1), second.values.reshape(1, -1))[0]
    bounds = 2 * estimate - np.nanquantile(resampled, [(1 + level) / 2, (1 - level) / 2])
    low, high = (np.asarray(bound) for bound in np.clip(bounds, -1, 1))
    drawn = f"{counted(units)}, jointly" if jointly else f"{counted(units)} and {counted(others)}, independently"
    method = f"reflected bootstrap over {drawn}, {resamples} resamples, seed {seed}"
    return Interval(low, high, level, method)


def _centred_ranks(values: np.ndarray, present: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Ranks minus their mean, 0 where not present. What is missing is ranked last, and so moves no other rank."""
    ranks = np.where(present, rankdata(np.where(present, values, np.inf), axis=1), 0.0)
    return np.where(present, ranks - ranks.sum(1, keepdims=True) / count, 0.0)
