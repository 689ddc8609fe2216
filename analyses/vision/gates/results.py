"""Results of several seeds, each by itself and all together, and the figures they give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from headlens.analyses.vision.gates.figures import Figure
from headlens.analyses.vision.measures.binary_measures import divided, mean
from headlens.analyses.vision.measures.estimates import Estimate, estimate, paired_difference, value_of


@dataclass(frozen=True, eq=False)
class Results:
    """One result for each seed (`each`), and that of all their samples together (`whole`)."""

    each: tuple[Any, ...]
    whole: Any

    def figure(self, gate: str, about: str, measure: str, resamples: int) -> Figure:
        values = [value_of(one, measure) for one in self.each]
        return _figure(gate, about, measure, estimate(self.whole, measure, resamples=resamples), values)

    def change(self, gate: str, about: str, measure: str, before: "Results", resamples: int) -> Figure:
        """How much larger a measure is than `before`, on the same samples."""
        found = paired_difference(self.whole, before.whole, measure, resamples=resamples)
        pairs = zip(self.each, before.each, strict=True)
        values = [value_of(one, measure) - value_of(other, measure) for one, other in pairs]
        return _figure(gate, about, f"change in {measure}", found, values)


def over_seeds(each: Sequence[Any]) -> Results:
    return Results(tuple(each), pooled(each))


def combined(make: Callable[..., Any], *results: Results) -> Results:
    """What `make` makes of the results of each seed, and of all together."""
    each = tuple(make(*own) for own in zip(*(one.each for one in results), strict=True))
    return Results(each, make(*(one.whole for one in results)))


def pooled(results: Sequence[Any]) -> Any:
    """One dataclass of all samples of several: arrays and tuples one behind the other, what is said beside them left
    out. Clusters name their seed, so those of two seeds differ."""
    first, made = results[0], {}
    for one in fields(first):
        values = [getattr(result, one.name) for result in results]
        if isinstance(values[0], np.ndarray):
            made[one.name] = np.concatenate(values)
        elif isinstance(values[0], tuple):
            made[one.name] = sum(values, ())
        elif isinstance(values[0], Mapping):
            arrays = {name for name, value in values[0].items() if isinstance(value, np.ndarray)}
            made[one.name] = {name: np.concatenate([value[name] for value in values]) for name in sorted(arrays)}
        else:
            made[one.name] = values[0]
    return type(first)(**made)


@dataclass(frozen=True, eq=False)
class Means:
    """Numbers of each sample by name; the measures are their means."""

    numbers: Mapping[str, np.ndarray]
    clusters: tuple[str, ...]

    @cached_property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        everyone = np.ones(len(self.clusters), bool)
        doubles = {name: values.astype(np.float64) for name, values in self.numbers.items()}
        return {
            name: lambda weights, values=values: mean(weights, values, everyone) for name, values in doubles.items()
        }

    def is_of_same_samples(self, other: "Means") -> bool:
        return self.clusters == other.clusters


@dataclass(frozen=True, eq=False)
class Recovered:
    """What an edit `lost` and what is `left` of that under another, by sample; "recovered" is 1 - left / lost."""

    lost: np.ndarray
    left: np.ndarray
    clusters: tuple[str, ...]

    @property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        lost, left = self.lost.astype(np.float64), self.left.astype(np.float64)
        return {"recovered": lambda weights: 1 - divided(weights @ left, weights @ lost)}

    def is_of_same_samples(self, other: "Recovered") -> bool:
        return self.clusters == other.clusters


@dataclass(frozen=True, eq=False)
class Beside:
    """One measure of two results about the same scenes, which are resampled together: "ratio" first / second (NaN where
    the second is 0), "difference", and "excess" first - times * second, which is defined where the ratio is not."""

    first: Any
    second: Any
    measure: str
    times: float

    @property
    def clusters(self) -> tuple[str, ...]:
        return (*self.first.clusters, *self.second.clusters)

    @property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        n, one, other = len(self.first.clusters), self.first.measures[self.measure], self.second.measures[self.measure]
        return {
            "ratio": lambda weights: divided(one(weights[..., :n]), other(weights[..., n:])),
            "difference": lambda weights: one(weights[..., :n]) - other(weights[..., n:]),
            "excess": lambda weights: one(weights[..., :n]) - self.times * other(weights[..., n:]),
        }

    def is_of_same_samples(self, other: "Beside") -> bool:
        return self.clusters == other.clusters


def _figure(gate: str, about: str, measure: str, found: Estimate, values: Sequence[float]) -> Figure:
    there = [value for value in values if not np.isnan(value)]
    least, most = (min(there), max(there)) if there else (float("nan"),) * 2
    return Figure(gate, about, measure, found.value, found.low, found.high, least, most)
