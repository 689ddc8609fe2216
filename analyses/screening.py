"""Screening and verifying: which of many estimates are patched for real, and what that says of all the others.

Patched are the k of largest magnitude and a random sample of all. The sample says how well estimates agree with exact
effects (Spearman's rank correlation), and how many cells outside the first k may be as large as those inside: of those
cells sampled, none or few were, which bounds their share (Clopper and Pearson's exact interval).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from headlens.analyses.metrics import AnyMetric
from headlens.analyses.rank_correlation import spearman

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Screened:
    """What the first `k` of `cells` estimates and a random sample came to.

    `agreement` is Spearman's correlation of estimate and exact effect over the sample, `interval` its bounds at 95%.
    `outside` cells of the sample were not among the first k; `overlooked` of them have an exact effect as large as the
    tenth largest verified one (or the smallest, of fewer). `at_most` bounds the share of such cells among all that were
    not verified.
    """

    k: int
    cells: int
    agreement: float
    interval: tuple[float, float]
    outside: int
    overlooked: int
    at_most: float

    def in_words(self, what: str) -> str:
        """The result in two sentences; `what` are many cells."""
        low, high = self.interval
        return (
            f"The first {self.k} of {self.cells} {what} and a random sample were patched. In the sample, estimate and "
            f"exact effect agree with a rank correlation of {self.agreement:+.2f} [{low:+.2f}, {high:+.2f}].\n"
            f"Of its {self.outside} {what} outside the first {self.k}, {self.overlooked} are as large as the ones that "
            f"matter here, so at most {self.at_most:.0%} of all such {what} are ({LEVEL:.0%} bound)."
        )


@dataclass(frozen=True, eq=False)
class Chosen:
    """Which cells of a flat array of estimates are patched: the first ones, and those of the sample."""

    estimates: np.ndarray
    first: np.ndarray
    drawn: np.ndarray

    @property
    def every(self) -> np.ndarray:
        return np.union1d(self.first, self.drawn)

    def screened(self, found: np.ndarray) -> Screened:
        """What came of it, from exact effects at the same places."""
        k, sample = len(self.first), len(self.drawn)
        verified = np.sort(np.abs(found[self.first]))[::-1]
        outside = np.setdiff1d(self.drawn, self.first)
        overlooked = int((np.abs(found[outside]) >= verified[min(10, k) - 1]).sum())
        agreement = float(spearman(self.estimates[self.drawn][None], found[self.drawn][None])[0])
        return Screened(
            k=k,
            cells=int(np.isfinite(self.estimates).sum()),
            agreement=agreement,
            interval=_fisher(agreement, sample),
            outside=len(outside),
            overlooked=overlooked,
            at_most=_upper_bound(overlooked, len(outside)),
        )


def choose(values: np.ndarray, k: int, sample: int, seed: int) -> Chosen:
    """The k of largest magnitude and `sample` random ones (all, if fewer). ValueError for either out of range."""
    flat = values.reshape(-1)
    present = np.flatnonzero(np.isfinite(flat))
    sample = min(sample, len(present))
    if not 1 <= k <= len(present) or sample < 4:
        raise ValueError(
            f"k={k} and sample={sample} were given; the map has {len(present)} cells: k from 1, sample from 4."
        )
    first = present[np.argsort(-np.abs(flat[present]), kind="stable")[:k]]
    return Chosen(flat, first, np.random.default_rng(seed).choice(present, sample, replace=False))


def metric_of(
    name: str, about: Mapping[str, Any], metric: AnyMetric | None, needed: Sequence[str], maker: str
) -> AnyMetric:
    """The metric that a map was made with, which only the caller has where it is a function of theirs.

    ValueError for a map that does not say all that is `needed` to patch it, as those of `maker` do.
    """
    missing = [key for key in needed if key not in about]
    if missing:
        raise ValueError(f"The map {name!r} does not say its {missing[0]}; verify takes maps from {maker}.")
    if "metric_keys" in about and metric is None:
        raise ValueError(f"The map was made with the metric {about['metric']!r}, a function; give it again: metric=...")
    return about["metric"] if metric is None else metric


def _fisher(correlation: float, n: int) -> tuple[float, float]:
    """The interval of a rank correlation by Fisher's transformation, with Bonett and Wright's (2000) standard error."""
    if not abs(correlation) < 1:
        return correlation, correlation
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + correlation**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(correlation) + np.array([-half, half]))
    return float(low), float(high)


def _upper_bound(found: int, n: int) -> float:
    """The largest share of which `found` in `n` would still be likely; one-sided, exact."""
    return 1.0 if found >= n else float(stats.beta.ppf(LEVEL, found + 1, n - found))
