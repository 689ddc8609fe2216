"""Could a cell's effect be nothing but the luck of the prompts? Sign-flip tests, and what to make of many of them.

If a cell does nothing, an effect of some size is as likely as the opposite one, so the signs of the prompts' effects
may be flipped without changing what can be expected. p is the share of flips that bring the mean as far from 0 as it
came out. Prompts of one template are alike and flip together; where all prompts are of one template they flip singly.

With few templates p cannot be small, however strong the effect: it is at least 2 / 2^templates, since one flip in that
many is none at all and one is all of them. 8 templates reach 2/256 = 0.0078, 5 reach 0.0625. Above 12 templates flips
are drawn at random, and p is at least 1 / (1 + flips). `smallest_p` says what a map can reach.
"""

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.uncertainty import units_of

FLIPS = 10_000
# All flips of as many units are tried; of more, some.
EXACT_UP_TO = 12
# Flipped means that are held at once: bounds memory where a map has many cells.
_AT_ONCE_BYTES = 64 * 2**20
# Sums that differ by no more than rounding are equal.
_ROUNDING = 1e-12


def sign_flip_p_values(headmap: HeadMap, flips: int = FLIPS, seed: int = 0) -> np.ndarray:
    """Two-sided p of every value, float64 of the map's shape: small means that the effect is not 0; NaN where missing.

    Exact up to 12 units (templates, or prompts where there is one template); above, from `flips` random flips as
    (1 + those as far from 0) / (1 + flips), the same for the same seed. A cell's p comes from the prompts that have it.
    The null hypothesis is that a template's summed effect is symmetric about 0. One in twenty cells that do nothing has
    p <= 0.05, so in a map of many cells use `benjamini_hochberg` or `significant`.

    ValueError for a map without samples, for a single prompt, or for flips < 1.
    """
    units = _units(headmap)
    if flips < 1:
        raise ValueError(f"flips={flips} was given; expected at least 1, such as {FLIPS}.")
    assert headmap.samples is not None
    samples = headmap.samples.reshape(len(units), -1).astype(np.float64)
    sums = np.zeros((units.max() + 1, samples.shape[1]))
    np.add.at(sums, units, np.nan_to_num(samples, nan=0.0))
    exact = len(sums) <= EXACT_UP_TO
    signs = _all_signs(len(sums)) if exact else _random_signs(len(sums), flips, seed)
    as_far = _share_as_far(signs, sums)
    p = as_far if exact else (1 + as_far * flips) / (1 + flips)
    return np.where(np.isnan(samples).all(0), np.nan, p).reshape(headmap.values.shape)


def smallest_p(headmap: HeadMap, flips: int = FLIPS) -> float:
    """The smallest p that a cell of this map can have, however strong its effect. A larger one rules nothing out."""
    count = int(_units(headmap).max()) + 1
    return 2 / 2**count if count <= EXACT_UP_TO else 1 / (1 + flips)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values (q-values) of any shape: cells with q <= 0.05 are expected to hold 5% false ones or fewer.

    Benjamini and Hochberg (1995); holds for independent tests, and for those that lean the same way. NaN stays NaN and
    does not count as a test. ValueError where a p is not between 0 and 1.
    """
    flat = np.asarray(p, np.float64).reshape(-1)
    present = np.flatnonzero(~np.isnan(flat))
    tested = flat[present]
    if ((tested < 0) | (tested > 1)).any():
        raise ValueError("A p-value lies between 0 and 1; numbers outside were given.")
    order = np.argsort(tested, kind="stable")[::-1]
    ranks = np.arange(len(tested), 0, -1)
    adjusted = np.full(flat.shape, np.nan)
    # never larger than the one of a cell with larger p
    adjusted[present[order]] = np.minimum.accumulate(tested[order] * len(tested) / ranks)
    return adjusted.reshape(np.shape(p))


def significant(headmap: HeadMap, q: float = 0.05, seed: int = 0) -> np.ndarray:
    """Which cells differ from 0 by `sign_flip_p_values` after `benjamini_hochberg`, as booleans of the map's shape.

    Of the cells found, a share of q is expected to be false. Missing cells are never found. In a map of few templates
    and many cells nothing can be found unless many cells are as strong as can be: of m cells, at least
    m * `smallest_p` / q have to be. ValueError as for `sign_flip_p_values`, and for q not between 0 and 1.
    """
    if not 0 < q < 1:
        raise ValueError(f"q={q} was given; a false discovery rate lies between 0 and 1, such as 0.05.")
    return benjamini_hochberg(sign_flip_p_values(headmap, seed=seed)) <= q


def _units(headmap: HeadMap) -> np.ndarray:
    """The unit that each prompt flips with."""
    if headmap.samples is None:
        raise ValueError(f"The map {headmap.name!r} keeps no samples, so it has no p-values.")
    if len(headmap.samples) < 2:
        raise ValueError(f"A p-value needs at least 2 prompts; this map was made from {len(headmap.samples)}.")
    return units_of(headmap.clusters)


def _all_signs(count: int) -> np.ndarray:
    """Every way to flip `count` units, [flip, unit]. The first keeps its sign: flipping all changes no magnitude."""
    flipped = np.arange(2 ** (count - 1))[:, None] >> np.arange(count) & 1
    return 1.0 - 2.0 * flipped[:, ::-1]


def _random_signs(count: int, flips: int, seed: int) -> np.ndarray:
    return 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, size=(flips, count))


def _share_as_far(signs: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """For each cell of `sums` [unit, cell], the share of `signs` [flip, unit] with a sum as far from 0 as unflipped."""
    share = np.empty(sums.shape[1])
    at_once = max(1, _AT_ONCE_BYTES // (8 * len(signs)))
    for first in range(0, sums.shape[1], at_once):
        part = sums[:, first : first + at_once]
        observed = np.abs(part.sum(0)) - _ROUNDING * np.abs(part).sum(0)
        share[first : first + at_once] = (np.abs(signs @ part) >= observed).mean(0)
    return share
