"""Does T-VHD tell true words from hallucinated ones? Areas under curves over the things that answers mention.

2412.13949 finds hallucinated words among those of low T-VHD. T-VHD also depends on which word is said and where, and
hallucinated words are other words in other places; areas within words, or within places, leave that out.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from jaxtyping import Bool, Float, Int

from headlens.analyses.vision.divergence.token_divergence import TokenDivergence
from headlens.analyses.vision.measures.binary_measures import Measured, Weights, auroc, divided


@dataclass(frozen=True, eq=False)
class TokenMentions:
    """Things that answers mention, each as often as it is mentioned: its T-VHD, whether it is there, the word, which
    mention of its answer it is (from 0), and the cluster of its sample.

    `estimate(found, "auroc")` of `measures/estimates.py` gives a measure with its interval. They are the chance that a
    true mention has a higher T-VHD than a hallucinated one, half of a tie counted: 0.5 is no information, and 1 is what
    the claim of 2412.13949 would be at its best, since there hallucinated words are the low ones. For "auroc" any two
    mentions are compared, for "auroc_within_words" those of one word, for "auroc_within_places" those that come as
    first, as second ... in their answers, for "auroc_within_both" those of one word in one place; within strata the
    area is the mean of the strata's, weighted by their pairs. NaN without a pair.
    """

    values: Float[np.ndarray, " mention"]
    there: Bool[np.ndarray, " mention"]
    words: tuple[str, ...]
    places: Int[np.ndarray, " mention"]
    clusters: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def of(self, words: Collection[str]) -> "TokenMentions":
        """Those of these words alone, which keep their places."""
        kept = [at for at, word in enumerate(self.words) if word in words]
        named, clusters = (tuple(each[at] for at in kept) for each in (self.words, self.clusters))
        return TokenMentions(self.values[kept], self.there[kept], named, self.places[kept], clusters)

    @cached_property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """All measures by name, as functions of how often each mention counts, [*resample, mention]."""
        return {name: partial(_area, self, strata) for name, strata in self._strata().items()}

    def pairs(self, measure: str = "auroc") -> int:
        """How many pairs of a true and a hallucinated mention the measure compares."""
        strata = self._strata()[measure]
        return sum(int(self.there[own].sum() * (~self.there[own]).sum()) for own in strata)

    def is_of_same_samples(self, other: "TokenMentions") -> bool:
        same = self.words == other.words and self.clusters == other.clusters
        return same and bool(np.array_equal(self.there, other.there))

    def _strata(self) -> dict[str, list[np.ndarray]]:
        """By measure, the mentions of each stratum."""
        places = self.places.tolist()
        named = {
            "auroc": [0] * len(self),
            "auroc_within_words": self.words,
            "auroc_within_places": places,
            "auroc_within_both": [*zip(self.words, places, strict=True)],
        }
        return {name: [*_groups(labels).values()] for name, labels in named.items()}


def token_mentions(
    series: Sequence[TokenDivergence],
    words: Mapping[int, str],
    objects: Sequence[Collection[str]],
    clusters: Sequence[str],
) -> TokenMentions:
    """What the answers of `series` mention: tokens in `words` (token id to word), true where the word is in the
    answer's `objects`. ValueError unless there are objects and a cluster for each answer."""
    if not len(series) == len(objects) == len(clusters):
        raise ValueError(
            f"{len(objects)} sets of objects and {len(clusters)} clusters were given for {len(series)} answers; give "
            "one of each for every answer."
        )
    found = []
    for one, here, cluster in zip(series, objects, clusters, strict=True):
        said = [at for at, token in enumerate(one.tokens.tolist()) if token in words]
        for place, at in enumerate(said):
            word = words[int(one.tokens[at])]
            found.append((float(one.values[at]), word in here, word, place, cluster))
    values, there, named, places, of = zip(*found, strict=True) if found else ((),) * 5
    return TokenMentions(np.array(values, np.float64), np.array(there, bool), named, np.array(places, np.int64), of)


def _groups(labels: Sequence) -> dict:
    """The places of each label."""
    found: dict = {}
    for at, label in enumerate(labels):
        found.setdefault(label, []).append(at)
    return {label: np.array(own) for label, own in found.items()}


def _area(mentions: TokenMentions, strata: Sequence[Int[np.ndarray, " _own"]], weights: Weights) -> Measured:
    won, pairs = np.zeros(weights.shape[:-1]), np.zeros(weights.shape[:-1])
    for own in strata:
        there, weight = mentions.there[own], weights[..., own]
        if there.all() or not there.any():
            continue
        compared = weight[..., there].sum(-1) * weight[..., ~there].sum(-1)
        won += np.where(compared > 0, auroc(weight, mentions.values[own], there), 0) * compared
        pairs += compared
    return divided(won, pairs)
