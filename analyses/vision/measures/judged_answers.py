"""What yes-or-no answers have in common, however they were read: how many are right, and what is said of either."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from headlens.analyses.uncertainty import RESAMPLES
from headlens.analyses.vision.measures.estimates import Estimate, estimate, value_of


class JudgedAnswers:
    """The base of answers beside the truth, `truth` whether yes is right; a class says its `measures`, with these among
    them."""

    truth: Bool[np.ndarray, " sample"]
    clusters: tuple[str, ...]

    @property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """All measures by name, as functions of how often each sample counts, [*resample, sample]."""
        raise NotImplementedError

    @property
    def accuracy(self) -> float:
        return value_of(self, "accuracy")

    @property
    def precision(self) -> float:
        return value_of(self, "precision")

    @property
    def recall(self) -> float:
        return value_of(self, "recall")

    @property
    def f1(self) -> float:
        return value_of(self, "f1")

    @property
    def false_positive_rate(self) -> float:
        return value_of(self, "false_positive_rate")

    @property
    def yes_ratio(self) -> float:
        """The share of questions answered yes, whatever is right."""
        return value_of(self, "yes_ratio")

    def ci(self, measure: str, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
        """A measure by name with its bootstrap interval over clusters; see `estimates.estimate`."""
        return estimate(self, measure, level, resamples, seed)

    def is_of_same_samples(self, other: Any) -> bool:
        return self.clusters == other.clusters and bool(np.array_equal(self.truth, other.truth))
