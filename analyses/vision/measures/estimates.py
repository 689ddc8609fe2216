"""A measure over samples with its interval, and the difference of two results on the same samples with its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from headlens.analyses.uncertainty import RESAMPLES, resample_counts, units_of
from headlens.hooks.nearest import did_you_mean

# Numbers of a resample's samples that are held at once.
_AT_ONCE = 4 * 2**20


@runtime_checkable
class Measurable(Protocol):
    """A result on samples: what it can be measured by, and what must be equal for two to be of the same samples."""

    @property
    def clusters(self) -> tuple[str, ...]: ...

    @property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """By name, from weights [*resample, sample] to values [*resample]."""
        ...

    def is_of_same_samples(self, other: Any) -> bool: ...


@dataclass(frozen=True)
class Estimate:
    """A value, and the bounds of its interval at `level`: NaN where the value is, where only one cluster says
    anything, or where no resample differs (that nothing varied here does not mean that nothing ever does)."""

    measure: str
    value: float
    low: float
    high: float
    level: float
    method: str

    def described(self) -> str:
        """One sentence."""
        sure = "no interval" if np.isnan(self.low) else f"{self.level:.0%} interval {self.low:.3f} to {self.high:.3f}"
        return f"{self.measure} {self.value:.3f} ({sure}; {self.method})"


def value_of(result: Measurable, measure: str) -> float:
    """One measure over all samples."""
    return float(_named(result, measure)(np.ones(len(result.clusters))))


def estimate(
    result: Measurable, measure: str, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """A measure with a percentile bootstrap interval over clusters, the same for the same seed.

    Clusters (one scene, one picture) are drawn whole; where there is only one, its samples are. Resamples in which the
    measure is not defined are left out. With few clusters (below about ten) the interval is somewhat too narrow.
    ValueError for an unknown measure, a level not between 0 and 1, or no resamples.
    """
    return _estimated(result, measure, _named(result, measure), level, resamples, seed)


def paired_difference(
    a: Measurable, b: Measurable, measure: str, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """a minus b in one measure, both of the same samples: every resample draws the same clusters for both.

    Positive means that the measure is larger in a. ValueError for results of different kinds or samples, and as for
    `estimate`.
    """
    if type(a) is not type(b) or not a.is_of_same_samples(b):
        raise ValueError(
            f"A {type(a).__name__} of {len(a.clusters)} samples and a {type(b).__name__} of {len(b.clusters)} were "
            "given, which are not of the same samples in the same order; measure both on the same."
        )
    one, other = _named(a, measure), _named(b, measure)
    return _estimated(
        a, f"difference in {measure}", lambda weights: one(weights) - other(weights), level, resamples, seed
    )


def _named(result: Measurable, measure: str) -> Callable[[np.ndarray], np.ndarray]:
    known = result.measures
    if measure not in known:
        hint = did_you_mean(measure, known)
        raise ValueError(f"measure={measure!r} was given{hint}; expected one of {', '.join(known)}.")
    return known[measure]


def _estimated(
    result: Any, name: str, function: Callable[[np.ndarray], np.ndarray], level: float, resamples: int, seed: int
) -> Estimate:
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"level={level}, resamples={resamples} were given; expected a level between 0 and 1, such as 0.95, and at "
            "least one resample."
        )
    count = len(result.clusters)
    value = float(function(np.ones(count)))
    units = units_of(result.clusters)
    method = f"bootstrap over {units.max(initial=-1) + 1} clusters, {resamples} resamples, seed {seed}"
    low = high = float("nan")
    if count and not np.isnan(value):
        counts = resample_counts(units, resamples, seed)
        at_once = max(1, _AT_ONCE // count)
        parts = [function(counts[first : first + at_once]) for first in range(0, resamples, at_once)]
        drawn = np.concatenate(parts)
        drawn = drawn[~np.isnan(drawn)]
        # rounding of a sum is no variation
        if len(drawn) and np.ptp(drawn) > 1e-12:
            low, high = (float(bound) for bound in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return Estimate(name, value, low, high, level, method)
