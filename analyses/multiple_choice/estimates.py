"""A mean over prompts with its bounds, for results that are no maps over a model's heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headlens.analyses.uncertainty import ratio_interval, ratio_of_means


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value with the bounds of its bootstrap interval, all of one shape; bounds are NaN for a single prompt."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """Three columns of a table: name, name_low and name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def estimate(
    samples: np.ndarray, clusters: Sequence[str], level: float = 0.95, scale: np.ndarray | None = None
) -> Estimate:
    """The mean over prompts of samples [prompt, *cell], or the sum of samples over the sum of `scale`, of one shape.

    Clusters are resampled (`ratio_interval`); NaN is left out.
    """
    cells = np.asarray(samples, np.float64).reshape(len(samples), -1)
    below = np.ones(len(cells)) if scale is None else np.asarray(scale, np.float64).reshape(len(cells), -1)
    found = [ratio_of_means(cells, below)]
    if len(cells) < 2:
        found += [np.full(cells.shape[1], np.nan)] * 2
    else:
        bounds = ratio_interval(cells, below, clusters, level)
        found += [bounds.low, bounds.high]
    return Estimate(*(each.reshape(samples.shape[1:]) for each in found))
