"""Did an edit make a model more accurate? Two classifiers compared item by item: gain, McNemar's test, an interval.

An item is a prompt with one right answer; `before` and `after` say of each item whether it was answered rightly. Only
items on which the two differ tell them apart: those that were fixed (wrong before, right after) and those that were
broken. If the edit does nothing that matters, either is as likely, like heads and tails; McNemar's test (1947) asks how
surprising the counts then are. Here it is exact, by the binomial distribution.

The test takes items as independent. Items of one template are alike and may change together, and then p is too small;
`gain_interval` resamples whole templates, and `headlens.analyses.significance.sign_flip_p_values`, of a map whose
samples are after minus before, flips whole templates. In a search through many candidates one in twenty that do nothing
has p <= 0.05: use `headlens.analyses.significance.benjamini_hochberg`, and measure the gain of what was found on other
items (`headlens.analyses.splits`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from headlens.analyses.uncertainty import RESAMPLES, Interval, ratio_interval


@dataclass(frozen=True)
class Gain:
    """How much better `after` is than `before`, over the same `items`.

    `before` and `after` are accuracies, from 0 to 1. `points` is their difference in percentage points; positive means
    that after is better. `fixed` items were wrong and became right, `broken` ones the reverse. `p` is McNemar's,
    two-sided. `interval` bounds the points at `level`, NaN as in `gain_interval`. `method` says how both were made.
    """

    items: int
    before: float
    after: float
    points: float
    fixed: int
    broken: int
    p: float
    interval: tuple[float, float]
    level: float
    method: str

    def described(self) -> str:
        """All of it in one sentence."""
        low, high = self.interval
        sure = "no interval" if np.isnan(low) else f"{100 * self.level:g}% interval {low:+.1f} to {high:+.1f}"
        return (
            f"Accuracy went from {self.before:.1%} to {self.after:.1%}, {self.points:+.1f} points ({sure}; "
            f"p = {self.p:.2g}): of {self.items} items {self.fixed} were fixed and {self.broken} broken "
            f"({self.method})."
        )


def accuracy_gain(
    before: np.ndarray,
    after: np.ndarray,
    clusters: Sequence[str] = (),
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gain:
    """Compare one candidate, `after` [item], with `before` [item], both booleans.

    `clusters` names the template of each item, and whole templates are resampled; without, single items are. The same
    seed gives the same interval. For many candidates at once see `gain_in_points`, `mcnemar` and `gain_interval`.

    Raises:
        ValueError: for arrays that are not booleans of one common length, fewer than 2 items, not one cluster for each
            item, or a level not between 0 and 1.
    """
    if after.ndim != 1:
        raise ValueError(f"after has the shape {list(after.shape)}; give one candidate, [item], at a time.")
    fixed, broken = fixed_and_broken(before, after)
    interval = gain_interval(before, after, clusters, level, resamples, seed)
    return Gain(
        items=len(before),
        before=float(before.mean()),
        after=float(after.mean()),
        points=float(gain_in_points(before, after)),
        fixed=int(fixed),
        broken=int(broken),
        p=float(mcnemar(before, after)),
        interval=(float(interval.low), float(interval.high)),
        level=level,
        method=f"exact McNemar test, {interval.method}",
    )


def fixed_and_broken(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many items were wrong in `before` [item] and right in `after` [*candidate, item], and the reverse.

    Both counts are [*candidate]. ValueError for arrays that are not booleans of the same items, or without items.
    """
    for name, right in {"before": before, "after": after}.items():
        if right.dtype != bool:
            raise ValueError(f"{name} is {right.dtype}; expected booleans: whether each item is answered rightly.")
    if before.ndim != 1 or before.shape != after.shape[-1:] or len(before) == 0:
        raise ValueError(
            f"before has the shape {list(before.shape)} and after {list(after.shape)}; expected [item] and "
            "[*candidate, item], of the same items and at least one."
        )
    return np.asarray((after & ~before).sum(-1)), np.asarray((before & ~after).sum(-1))


def gain_in_points(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Accuracy of `after` [*candidate, item] minus that of `before` [item], in percentage points, [*candidate]."""
    fixed, broken = fixed_and_broken(before, after)
    return np.asarray(100 * (fixed - broken) / len(before))


def mcnemar(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Two-sided exact p of McNemar's test for each candidate of `after` [*candidate, item]; 1 where nothing changed.

    Small means that after is better or worse than `before` [item]. With n items changed it is at least 2 / 2^n.
    """
    fixed, broken = fixed_and_broken(before, after)
    return np.asarray(np.minimum(1.0, 2 * binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5)))


def mcnemar_greater(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """One-sided exact p of McNemar's test, as `mcnemar`; small means that after is better. Worse ones are near 1."""
    fixed, broken = fixed_and_broken(before, after)
    return np.asarray(binom.sf(fixed - 1, fixed + broken, 0.5))


def gain_interval(
    before: np.ndarray,
    after: np.ndarray,
    clusters: Sequence[str] = (),
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `gain_in_points`, bounds [*candidate]; an item keeps its before and its after.

    Whole clusters are resampled, or single items where there are no clusters, or one only. NaN where the interval would
    have no width, as when no item changed: that nothing varied here does not mean that nothing ever does. With few
    clusters (below about ten) or few changed items it is somewhat too narrow. ValueError as for `accuracy_gain`.
    """
    fixed_and_broken(before, after)
    if len(before) < 2:
        raise ValueError("An interval needs at least 2 items; 1 was given.")
    if len(clusters) not in (0, len(before)):
        raise ValueError(f"{len(clusters)} clusters were given for {len(before)} items; give one for each, or none.")
    points = 100 * np.moveaxis(after.astype(np.float64) - before, -1, 0)
    labels = clusters if len(clusters) else ["single items"] * len(before)
    found = ratio_interval(points, np.ones(len(before)), labels, level, resamples, seed)
    low, high = (np.where(found.low == found.high, np.nan, bound) for bound in (found.low, found.high))
    return Interval(low, high, level, found.method)
