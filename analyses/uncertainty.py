"""How far a mean over prompts could have come out otherwise: bootstrap intervals, clustered.

Prompts made from one template are alike, so they are resampled together: a whole template is drawn or not. An interval
from single prompts would be too narrow for the claim that is usually made, about prompts of this kind in general. With
few templates (below about ten) a percentile interval is still somewhat too narrow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
# Resampled maps that are held at once: bounds memory where a map has many cells.
_AT_ONCE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Interval:
    """Bounds of the same shape as the values they belong to; NaN where a value is missing, or only one unit has it."""

    low: np.ndarray
    high: np.ndarray
    level: float
    method: str


def ratio_of_means(samples: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Sum of `samples` [prompt, *cell] over sum of `scale`, per cell over the prompts that have it.

    `scale` is [prompt], or [prompt, metric] where metric is the last dim of a cell.
    """
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
    units = units_of(clusters)
    counts = resample_counts(units, resamples, seed)
    flat, weight = _flat(samples, scale)
    there = ~np.isnan(samples.reshape(flat.shape))
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    cells_at_once = max(1, _AT_ONCE_BYTES // (8 * resamples))
    for first in range(0, flat.shape[1], cells_at_once):
        part = slice(first, first + cells_at_once)
        ratios = _divide(*_sums(counts, flat[:, part], weight[:, part]))
        # a single unit says nothing of how others would have come out
        present = np.flatnonzero(~np.isnan(ratios).all(0) & (_units_with(there[:, part], units) > 1))
        if len(present):
            bounds = np.nanquantile(ratios[:, present], [(1 - level) / 2, (1 + level) / 2], axis=0)
            low[first + present], high[first + present] = bounds
    shape, method = samples.shape[1:], f"percentile bootstrap over {counted(units)}, {resamples} resamples, seed {seed}"
    return Interval(low.reshape(shape).astype(np.float32), high.reshape(shape).astype(np.float32), level, method)


def _units_with(there: np.ndarray, units: np.ndarray) -> np.ndarray:
    """In how many units each cell is there, from booleans [prompt, cell]."""
    return np.array([there[units == unit].any(0) for unit in range(units.max() + 1)]).sum(0)


def units_of(clusters: Sequence[str]) -> np.ndarray:
    """The unit that each prompt is resampled with, from 0: its cluster, or itself where there is only one cluster."""
    _, units = np.unique(np.asarray(clusters), return_inverse=True)
    return units if units.max(initial=0) > 0 else np.arange(len(units))


def counted(units: np.ndarray) -> str:
    """How many units there are, in words: "8 templates", "64 prompts"."""
    count = units.max(initial=-1) + 1
    return f"{count} {'prompts' if count == len(units) else 'templates'}"


def resample_counts(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each prompt is in each resample, [resample, prompt]: as many units as there are, drawn with return."""
    count = units.max(initial=-1) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, units].astype(np.float64)


def resampled_ratios(samples: np.ndarray, scale: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """`ratio_of_means` of every resample of `counts` [resample, prompt], in blocks [some resamples, cell].

    A cell that no drawn prompt has is NaN.
    """
    flat, weight = _flat(samples, scale)
    at_once = max(1, _AT_ONCE_BYTES // (8 * max(1, flat.shape[1])))
    for first in range(0, len(counts), at_once):
        yield _divide(*_sums(counts[first : first + at_once], flat, weight))


def scale_of_each(samples: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The scale that goes with each sample [prompt, *cell]: the dims of `scale` are the first and the last of these."""
    between = (1,) * (samples.ndim - scale.ndim)
    return np.broadcast_to(scale.astype(np.float64).reshape(len(scale), *between, *scale.shape[1:]), samples.shape)


def _flat(samples: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples, and the scale where there is a sample, as [prompt, cell] with 0 for what is missing."""
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    missing = np.isnan(flat)
    weight = scale_of_each(samples, scale).reshape(flat.shape)
    return np.where(missing, 0.0, flat), np.where(missing, 0.0, weight)


def _sums(counts: np.ndarray, flat: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return counts @ flat, counts @ weight


def _divide(top: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(top, below, out=np.full(top.shape, np.nan), where=below != 0)
