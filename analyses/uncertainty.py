"""How far a mean over prompts could have come out otherwise: bootstrap intervals, clustered.

Prompts made from one template are alike, so they are resampled together: a whole template is drawn or not. An interval
from single prompts would be too narrow for the claim that is usually made, about prompts of this kind in general. With
few templates (below about ten) a percentile interval is still somewhat too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
# Resampled maps that are held at once: bounds memory where a map has many cells.
_AT_ONCE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Interval:
    """Bounds of the same shape as the values they belong to; NaN where a value is missing."""

    low: np.ndarray
    high: np.ndarray
    level: float
    method: str


def ratio_of_means(samples: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Sum of `samples` [prompt, *cell] over sum of `scale` [prompt], per cell over the prompts that have it."""
    top, below = _sums(np.ones((1, len(samples))), *_flat(samples, scale))
    return _divide(top, below)[0].reshape(samples.shape[1:])


def ratio_interval(
    samples: np.ndarray,
    scale: np.ndarray,
    clusters: Sequence[str],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `ratio_of_means` at `level`, over resampled clusters, the same for the same seed.

    With a single cluster its prompts are resampled instead. ValueError for a level that is not between 0 and 1, or
    for a single prompt.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} was given; an interval's level lies between 0 and 1, such as 0.95.")
    if len(samples) < 2:
        raise ValueError("An interval needs at least 2 prompts; this map was made from 1.")
    units, unit_of_prompt = np.unique(np.asarray(clusters), return_inverse=True)
    if len(units) == 1:
        units, unit_of_prompt = np.arange(len(samples)), np.arange(len(samples))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=resamples)
    counts = drawn[:, unit_of_prompt].astype(np.float64)
    flat, weight = _flat(samples, scale)
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    cells_at_once = max(1, _AT_ONCE_BYTES // (8 * resamples))
    for first in range(0, flat.shape[1], cells_at_once):
        part = slice(first, first + cells_at_once)
        ratios = _divide(*_sums(counts, flat[:, part], weight[:, part]))
        present = np.flatnonzero(~np.isnan(ratios).all(0))
        if len(present):
            bounds = np.nanquantile(ratios[:, present], [(1 - level) / 2, (1 + level) / 2], axis=0)
            low[first + present], high[first + present] = bounds
    shape, drawn_of = samples.shape[1:], "prompts" if len(units) == len(samples) else "templates"
    method = f"percentile bootstrap over {len(units)} {drawn_of}, {resamples} resamples, seed {seed}"
    return Interval(low.reshape(shape).astype(np.float32), high.reshape(shape).astype(np.float32), level, method)


def _flat(samples: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples, and the scale where there is a sample, as [prompt, cell] with 0 for what is missing."""
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    missing = np.isnan(flat)
    weight = np.where(missing, 0.0, scale.astype(np.float64)[:, None])
    return np.where(missing, 0.0, flat), weight


def _sums(counts: np.ndarray, flat: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return counts @ flat, counts @ weight


def _divide(top: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(top, below, out=np.full(top.shape, np.nan), where=below != 0)
