"""What is asked and what is told about a scene: questions of POPE's three kinds, and descriptions.

POPE (arXiv 2305.10355) asks of each picture about objects that are there and as many that are not; what is not there is
drawn at random, is frequent in general, or often comes with what is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headlens.analyses.vision.measures.pope_pairs import NEGATIVES as NEGATIVES
from headlens.analyses.vision.measures.pope_pairs import Counts, counted, paired
from headlens.analyses.vision.scenes.scenes import ANCHORS, NOUNS, Scene

DESCRIBE = "describe"


@dataclass(frozen=True)
class Question:
    """A question about one noun, its right answer, and the noun that is there with which it was paired."""

    noun: str
    answer: str
    paired: str

    @property
    def text(self) -> str:
        return ask(self.noun)


def ask(noun: str) -> str:
    """The question for a noun."""
    return f"is there a {noun} ?"


def count(scenes: Sequence[Scene]) -> Counts:
    """Count nouns over scenes, which should be scenes as the model was trained on."""
    return counted([scene.nouns for scene in scenes], NOUNS)


def questions(scene: Scene, negatives: str, counts: Counts) -> tuple[Question, ...]:
    """Up to three nouns that are there, each followed by one that is not; no noun twice (see `pope_pairs.paired`).

    Nouns that are there are the first in the order of NOUNS: as in POPE the first of a list, here anchors. The
    adversarial negative of an anchor is its partner where that is missing. ValueError for an unknown kind of negatives.
    """
    rng = np.random.default_rng([*scene.draw, 2])
    pairs = paired(scene.nouns, negatives, counts, rng)
    return tuple(
        question for noun, other in pairs for question in (Question(noun, "yes", noun), Question(other, "no", noun))
    )


def describe(scene: Scene) -> str:
    """The full description: "there is a table with a chair . a star ." in the order of NOUNS, partners with anchors."""
    said, parts = set(), []
    for noun in scene.nouns:
        if noun in said:
            continue
        partner = ANCHORS.get(noun)
        beside = partner if partner in scene.nouns else None
        parts.append(f"a {noun} with a {beside} ." if beside else f"a {noun} .")
        said |= {noun, beside}
    return " ".join(["there is", *parts])


def words() -> tuple[str, ...]:
    """Every word that questions, answers and descriptions are made of."""
    return (*f"{DESCRIBE} is there a ? yes no with .".split(), *NOUNS)
