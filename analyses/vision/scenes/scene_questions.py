"""What is asked and what is told about a scene: questions of POPE's three kinds, and descriptions.

POPE (arXiv 2305.10355) asks of each picture about objects that are there and as many that are not; what is not there is
drawn at random, is frequent in general, or often comes with what is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from headlens.analyses.vision.scenes.scenes import ANCHORS, NOUNS, Scene

NEGATIVES = ("random", "popular", "adversarial")
DESCRIBE = "describe"
POSITIVES = 3


@dataclass(frozen=True)
class Question:
    """A question about one noun, its right answer, and the noun that is there with which it was paired."""

    noun: str
    answer: str
    paired: str

    @property
    def text(self) -> str:
        return ask(self.noun)


@dataclass(frozen=True, eq=False)
class Counts:
    """In how many scenes each noun is (`alone`), and each two of them are (`together`), in the order of NOUNS."""

    alone: Int[np.ndarray, " noun"]
    together: Int[np.ndarray, "noun noun"]


def ask(noun: str) -> str:
    """The question for a noun."""
    return f"is there a {noun} ?"


def count(scenes: Sequence[Scene]) -> Counts:
    """Count nouns over scenes, which should be scenes as the model was trained on."""
    here = np.array([[noun in scene.nouns for noun in NOUNS] for scene in scenes], dtype=np.int64)
    together = here.T @ here
    np.fill_diagonal(together, 0)
    return Counts(here.sum(0), together)


def questions(scene: Scene, negatives: str, counts: Counts) -> tuple[Question, ...]:
    """Up to three nouns that are there, each followed by one that is not; no noun twice.

    Nouns that are there are the first in the order of NOUNS: as in POPE the first of a list, here anchors. The noun
    that is not is drawn uniformly ("random"), is the most frequent of `counts` ("popular"), or the one most often
    together with the noun it follows ("adversarial"; of an anchor, its partner where that is missing). Of equally
    frequent ones the first in NOUNS is taken. Departure from POPE: scenes with fewer than three objects are kept, with
    fewer questions.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives={negatives!r} was given; expected one of {', '.join(NEGATIVES)}.")
    rng = np.random.default_rng([*scene.draw, 2])
    absent = [noun for noun in NOUNS if noun not in scene.nouns]
    asked = []
    for noun in scene.nouns[:POSITIVES]:
        match negatives:
            case "random":
                other = absent[int(rng.random() * len(absent))]
            case "popular":
                other = max(absent, key=lambda other: counts.alone[NOUNS.index(other)])
            case _:
                row = counts.together[NOUNS.index(noun)]
                other = max(absent, key=lambda other, row=row: row[NOUNS.index(other)])
        absent.remove(other)
        asked += [Question(noun, "yes", noun), Question(other, "no", noun)]
    return tuple(asked)


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
