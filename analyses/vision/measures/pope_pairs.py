"""Which objects POPE asks about (2305.10355): some that are there, and after each one that is not."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

NEGATIVES = ("random", "popular", "adversarial")
POSITIVES = 3


@dataclass(frozen=True, eq=False)
class Counts:
    """In how many pictures each object is (`alone`), and each two of them are (`together`), in the order of `nouns`."""

    nouns: tuple[str, ...]
    alone: Int[np.ndarray, " noun"]
    together: Int[np.ndarray, "noun noun"]


def counted(pictures: Sequence[Collection[str]], nouns: Sequence[str]) -> Counts:
    """Count over pictures, each given by the objects in it."""
    here = np.array([[noun in objects for noun in nouns] for objects in pictures], np.int64)
    here = here.reshape(len(pictures), len(nouns))
    together = here.T @ here
    np.fill_diagonal(together, 0)
    return Counts(tuple(nouns), here.sum(0), together)


def paired(
    objects: Sequence[str], negatives: str, counts: Counts, rng: np.random.Generator
) -> tuple[tuple[str, str], ...]:
    """Up to three objects that are there, the first of the list, each with one that is not; none comes twice.

    The one that is not is drawn uniformly from the nouns of `counts` ("random"), is the most frequent of them
    ("popular"), or the one most often together with the object it follows ("adversarial"). Of equally frequent ones the
    first in `nouns` is taken. Departures from POPE: pictures with fewer than three objects are kept, with fewer
    questions, and where no absent noun is left, the pairs end. ValueError for an unknown kind of negatives.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives={negatives!r} was given; expected one of {', '.join(NEGATIVES)}.")
    number = {noun: at for at, noun in enumerate(counts.nouns)}
    absent = [noun for noun in counts.nouns if noun not in objects]
    pairs: list[tuple[str, str]] = []
    for noun in objects[:POSITIVES]:
        if not absent:
            break
        match negatives:
            case "random":
                other = absent[int(rng.random() * len(absent))]
            case "popular":
                other = max(absent, key=lambda other: counts.alone[number[other]])
            case _:
                row = counts.together[number[noun]]
                other = max(absent, key=lambda other, row=row: row[number[other]])
        absent.remove(other)
        pairs.append((noun, other))
    return tuple(pairs)
