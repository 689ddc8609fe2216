"""Do two tasks use the same heads? The heads on top of two maps, how many they share, and what chance gives.

Heads on top sit in some layers more than in others, so two tasks that have nothing in common but that share more heads
than k * k / n. The null here keeps how many heads of each layer are on top and draws which ones: layer by layer a
hypergeometric number is shared, and the whole distribution is exact. (2310.08744 reports a share of 78%, and no null.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from scipy.stats import hypergeom

from headlens.analyses.headmap import HeadMap
from headlens.analyses.stability import strongest


@dataclass(frozen=True)
class Overlap:
    """How far the `k` heads of largest magnitude in two maps are the same ones.

    `chance[n]` is the probability of n shared heads if only how many of each layer are on top were the same.
    """

    k: int
    shared: tuple[str, ...]
    first_only: tuple[str, ...]
    second_only: tuple[str, ...]
    chance: tuple[float, ...]

    @property
    def fraction(self) -> float:
        return len(self.shared) / self.k

    @property
    def jaccard(self) -> float:
        """Those shared over those in either."""
        return len(self.shared) / (2 * self.k - len(self.shared))

    @property
    def expected(self) -> float:
        """How many are shared by chance, on average."""
        return float(np.arange(len(self.chance)) @ np.array(self.chance))

    @property
    def band(self) -> tuple[int, int]:
        """By chance at least 95% of overlaps lie here, both ends included."""
        total = np.cumsum(self.chance)
        return int(np.searchsorted(total, 0.025)), int(np.searchsorted(total, min(0.975, total[-1])))

    @property
    def p(self) -> float:
        """The probability of as many as here or more by chance."""
        return float(min(1.0, sum(self.chance[len(self.shared) :])))

    def described(self) -> str:
        """One sentence."""
        low, high = self.band
        return (
            f"{len(self.shared)} of {self.k} shared ({self.fraction:.0%}, Jaccard {self.jaccard:.2f}); by chance "
            f"{self.expected:.1f} ({low} to {high}), p {self.p:.2g}"
        )


def overlap(first: HeadMap, second: HeadMap, k: int) -> Overlap:
    """The overlap of the k heads of largest magnitude in two maps of (layer, head).

    Heads that are missing from either map count in neither. ValueError for maps of other dims or sizes, or k < 1.
    """
    for headmap in (first, second):
        if headmap.dims != ("layer", "head") or headmap.values.shape != first.values.shape:
            raise ValueError(
                f"Maps of ({', '.join(first.dims)}) {first.values.shape} and ({', '.join(headmap.dims)}) "
                f"{headmap.values.shape} were given; expected two maps of (layer, head) of one model."
            )
    present = ~np.isnan(first.values - second.values)
    if not 1 <= k <= present.sum():
        raise ValueError(f"k={k} was given; expected 1 to {present.sum()}, the heads that both maps have.")
    on_top = [_on_top(np.where(present, headmap.values, np.nan), k) for headmap in (first, second)]
    one, other = ([first.label(cell) for cell in np.argwhere(top).tolist()] for top in on_top)
    return Overlap(
        k=k,
        shared=tuple(label for label in one if label in other),
        first_only=tuple(label for label in one if label not in other),
        second_only=tuple(label for label in other if label not in one),
        chance=tuple(_chance(present.sum(1), *(top.sum(1) for top in on_top)).tolist()),
    )


def together(stages: Mapping[str, Overlap]) -> Overlap:
    """One overlap of several stages, as if their heads were different ones: "logits L23H3", "queries L23H3"."""
    labels = {
        part: tuple(f"{name} {label}" for name, stage in stages.items() for label in getattr(stage, part))
        for part in ("shared", "first_only", "second_only")
    }
    chance = reduce(np.convolve, (np.array(stage.chance) for stage in stages.values()))
    return Overlap(k=sum(stage.k for stage in stages.values()), chance=tuple(chance.tolist()), **labels)


def rank_biased_overlap(first: HeadMap, second: HeadMap, persistence: float = 0.9) -> float:
    """How far two rankings by magnitude agree from the top down, 0 to 1.

    Extrapolated, as in equation 32 of Webber, Moffat and Zobel (2010, "A similarity measure for indefinite rankings").
    Depth d weighs persistence ** d: at 0.9 the first ten hold 86% of the weight.
    """
    present = ~np.isnan(first.values - second.values)
    one, other = (strongest(each.values[present][None], int(present.sum()))[0] for each in (first, second))
    return float(_agreement(one, other, persistence))


def rank_biased_by_chance(
    first: HeadMap, second: HeadMap, persistence: float = 0.9, draws: int = 200, seed: int = 0
) -> np.ndarray:
    """`rank_biased_overlap` with the second map's heads shuffled within each layer [draw]."""
    random = np.random.default_rng(seed)
    shuffled = (replace(second, values=random.permuted(second.values, axis=1), samples=None) for _ in range(draws))
    return np.array([rank_biased_overlap(first, other, persistence) for other in shuffled])


def _on_top(values: np.ndarray, k: int) -> np.ndarray:
    top = np.zeros(values.size, bool)
    top[strongest(values.reshape(1, -1), k)[0]] = True
    return top.reshape(values.shape)


def _chance(heads: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The probability of each number of shared heads, from how many heads a layer has and how many are on top."""
    shares = np.ones(1)
    for n, a, b in zip(heads, one, other, strict=True):
        if n == 0:
            # a layer that is missing shares nothing
            continue
        shares = np.convolve(shares, hypergeom.pmf(np.arange(min(a, b) + 1), n, a, b))
    return shares


def _agreement(one: np.ndarray, other: np.ndarray, persistence: float) -> np.floating:
    seen = np.zeros((2, len(one)), bool)
    common, agreements = 0, np.zeros(len(one))
    for depth, (a, b) in enumerate(zip(one, other, strict=True)):
        seen[0, a] = seen[1, b] = True
        common += int(seen[1, a]) + int(seen[0, b]) - int(a == b)
        agreements[depth] = common / (depth + 1)
    weights = persistence ** np.arange(1, len(one) + 1)
    return agreements[-1] * weights[-1] + (1 - persistence) / persistence * (agreements * weights).sum()
