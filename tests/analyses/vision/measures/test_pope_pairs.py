"""POPE's pairs on lists small enough to count by eye."""

import numpy as np
import pytest

from headlens.analyses.vision.measures.pope_pairs import counted, paired

NOUNS = ("bench", "cat", "dog", "egg", "fish", "hat")
PICTURES = [
    ["cat", "dog"],
    ["cat", "dog", "hat"],
    ["dog", "fish", "hat"],
    ["hat", "fish"],
    ["hat"],
    ["cat", "fish", "egg"],
]
COUNTS = counted(PICTURES, NOUNS)


def pairs(objects, negatives, seed=0, counts=COUNTS):
    return paired(objects, negatives, counts, np.random.default_rng(seed))


def test_counts_by_eye():
    assert COUNTS.alone.tolist() == [0, 3, 3, 1, 3, 4]
    row = dict(zip(NOUNS, COUNTS.together[NOUNS.index("cat")].tolist(), strict=True))
    assert row == {"bench": 0, "cat": 0, "dog": 2, "egg": 1, "fish": 1, "hat": 1}
    assert np.array_equal(COUNTS.together, COUNTS.together.T)


def test_popular_ones_are_the_most_frequent_that_are_not_there():
    # of equally frequent ones the first in the list of nouns
    assert pairs(["egg", "bench"], "popular") == (("egg", "hat"), ("bench", "cat"))
    assert pairs(["hat"], "popular") == (("hat", "cat"),)


def test_adversarial_ones_come_with_the_object_before():
    # hat: fish 2, dog 2 (first in the list), cat 1; egg: cat 1, fish 1, of which cat comes first
    assert pairs(["hat", "egg"], "adversarial") == (("hat", "dog"), ("egg", "cat"))
    # the dog is used up
    assert pairs(["cat", "hat"], "adversarial") == (("cat", "dog"), ("hat", "fish"))


def test_random_ones_reach_every_noun_evenly():
    draws = [pairs(["cat"], "random", seed)[0][1] for seed in range(1000)]
    often = {noun: draws.count(noun) for noun in NOUNS}
    assert often.pop("cat") == 0 and all(150 < count < 250 for count in often.values())
    assert pairs(["cat"], "random", 7) == pairs(["cat"], "random", 7)


@pytest.mark.parametrize("negatives", ["random", "popular", "adversarial"])
def test_three_are_asked_and_none_twice(negatives):
    found = pairs(["cat", "dog", "egg", "fish"], negatives)
    # only two nouns are not there
    assert [noun for noun, _ in found] == ["cat", "dog"] and {other for _, other in found} == {"bench", "hat"}
    assert pairs([*NOUNS], negatives) == () and pairs([], negatives) == ()
    wide = counted([], [f"n{at}" for at in range(9)])
    assert len(pairs(["n0", "n1", "n2", "n3"], negatives, counts=wide)) == 3


def test_other_kinds_are_refused():
    with pytest.raises(ValueError, match="random, popular, adversarial"):
        pairs(["cat"], "rare")
