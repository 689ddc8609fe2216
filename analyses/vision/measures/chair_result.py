"""What descriptions say of objects that are and are not there: CHAIR, with all that it must not stand without."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.uncertainty import RESAMPLES
from headlens.analyses.vision.measures.binary_measures import divided
from headlens.analyses.vision.measures.estimates import Estimate, estimate, value_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Caption:
    """One description: the objects it names, in order and as often as it does, beside those that are there.

    `missing` are objects that are not there and that a prior suggests. `ended` is False where room ran out. `tokens`
    are those said, where a model said them.
    """

    text: str
    mentions: tuple[str, ...]
    objects: tuple[str, ...]
    missing: tuple[str, ...] = ()
    ended: bool = True
    tokens: tuple[int, ...] = ()

    @property
    def hallucinated(self) -> tuple[str, ...]:
        """Mentions of what is not there, as often as they come."""
        return tuple(one for one in self.mentions if one not in self.objects)

    @property
    def missed(self) -> tuple[str, ...]:
        """Objects that are there and are not named."""
        return tuple(one for one in self.objects if one not in self.mentions)

    @property
    def words(self) -> int:
        """How many words, punctuation not counted."""
        return sum(any(mark.isalnum() for mark in word) for word in self.text.split())


@dataclass(frozen=True, eq=False)
class Chair:
    """CHAIR of descriptions (1809.02156), in `captions`, one for each sample; every measure over all of them together.

    A measure that is not defined, as CHAIR_I where no object is named, is NaN.
    """

    captions: tuple[Caption, ...]
    clusters: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.captions) != len(self.clusters):
            raise ValueError(f"{len(self.clusters)} clusters were given for {len(self.captions)} captions.")

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """All measures by name, as functions of how often each sample counts, [*resample, sample]."""

        def per(number: Callable[[Caption], float]) -> np.ndarray:
            return np.array([number(one) for one in self.captions], np.float64)

        def ratio(top: np.ndarray, below: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            return lambda weights: divided(weights @ top, weights @ below)

        ones, wrong = np.ones(len(self)), per(lambda one: len(one.hallucinated))
        there = per(lambda one: len(one.objects))
        named, right = per(lambda one: len({*one.mentions})), per(lambda one: len({*one.mentions} & {*one.objects}))
        return {
            "chair_i": ratio(wrong, per(lambda one: len(one.mentions))),
            "chair_s": ratio((wrong > 0).astype(np.float64), ones),
            "recall": ratio(right, there),
            "object_f1": ratio(2 * right, named + there),
            "words": ratio(per(lambda one: one.words), ones),
            "truncated": ratio(per(lambda one: not one.ended), ones),
            "partner_rate": ratio(
                per(lambda one: len({*one.missing} & {*one.mentions})), per(lambda one: len(one.missing))
            ),
        }

    @property
    def chair_i(self) -> float:
        """Mentions of objects that are not there, over all mentions of objects, each as often as it comes."""
        return value_of(self, "chair_i")

    @property
    def chair_s(self) -> float:
        """The share of descriptions that name at least one object that is not there."""
        return value_of(self, "chair_s")

    @property
    def recall(self) -> float:
        """Objects there that are named, over all objects there, each once in its picture."""
        return value_of(self, "recall")

    @property
    def object_f1(self) -> float:
        """The harmonic mean of `recall` and of the share of named objects, each once, that are there."""
        return value_of(self, "object_f1")

    @property
    def words(self) -> float:
        """Mean words of a description."""
        return value_of(self, "words")

    @property
    def truncated(self) -> float:
        """The share of descriptions that did not come to an end."""
        return value_of(self, "truncated")

    @property
    def partner_rate(self) -> float:
        """Of the objects that are missing where a prior suggests them (`missing`), the share that is named."""
        return value_of(self, "partner_rate")

    def ci(self, measure: str, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
        """A measure by name with its bootstrap interval over clusters; see `estimates.estimate`."""
        return estimate(self, measure, level, resamples, seed)

    def is_of_same_samples(self, other: "Chair") -> bool:
        about = [[(one.objects, one.missing) for one in each.captions] for each in (self, other)]
        return self.clusters == other.clusters and about[0] == about[1]

    def to_frame(self) -> "pandas.DataFrame":
        """A row per sample: cluster, text, words, mentions, hallucinated, missed (in words), ended."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "cluster": cluster,
                    "text": one.text,
                    "words": one.words,
                    "mentions": ", ".join(one.mentions),
                    "hallucinated": ", ".join(one.hallucinated),
                    "missed": ", ".join(one.missed),
                    "ended": one.ended,
                }
                for cluster, one in zip(self.clusters, self.captions, strict=True)
            ]
        )

    def described(self) -> str:
        """One sentence: CHAIR, and what it must not stand without."""
        rate = self.partner_rate
        partners = "" if np.isnan(rate) else f" {rate:.3f} of missing partners are named."
        return (
            f"CHAIR_I {self.chair_i:.3f} and CHAIR_S {self.chair_s:.3f} over {len(self)} descriptions, with recall "
            f"{self.recall:.3f}, object F1 {self.object_f1:.3f} and {self.words:.1f} words, {self.truncated:.1%} of "
            f"them cut off.{partners}"
        )
