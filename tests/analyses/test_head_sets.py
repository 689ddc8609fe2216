"""Random head sets: against an enumeration of all sets there are, and the shape of each."""

import itertools
from collections import Counter

import pytest

from headlens.analyses.head_sets import random_head_sets
from headlens.hooks.sites import Head, parse_heads

CANDIDATES = parse_heads("all", 4, 5)
CHOSEN = parse_heads(["L1H2", "L3H0", "L1H4"], 4, 5)


def every_set(chosen, candidates):
    """All sets with the layers of `chosen`, by trying every set of its size."""
    layers = Counter(head.layer for head in chosen)
    return {
        heads
        for heads in itertools.combinations(sorted(candidates), len(chosen))
        if Counter(head.layer for head in heads) == layers
    }


def test_sets_are_among_all_there_are_and_different():
    found = random_head_sets(CHOSEN, CANDIDATES, 30, seed=1)
    assert len(found) == len(set(found)) == 30
    assert set(found) <= every_set(CHOSEN, CANDIDATES) - {tuple(sorted(CHOSEN))}
    assert all(isinstance(head, Head) for heads in found for head in heads)


def test_where_few_sets_exist_all_the_others_are_drawn():
    # 10 pairs of layer 1 with 5 heads of layer 3, but for the chosen one
    others = every_set(CHOSEN, CANDIDATES) - {tuple(sorted(CHOSEN))}
    assert len(others) == 49
    found = random_head_sets(CHOSEN, CANDIDATES, 200)
    assert len(found) == 49 and set(found) == others


def test_every_other_set_is_as_likely():
    times = Counter()
    for seed in range(2000):
        times.update(random_head_sets(CHOSEN, CANDIDATES, 1, seed))
    # 2000 / 49 = 41 each; five standard deviations
    assert len(times) == 49 and max(times.values()) < 41 + 5 * 41**0.5 and min(times.values()) > 41 - 5 * 41**0.5
    # two of five heads of layer 1, the chosen ones as often as the others but for the chosen set
    with_chosen = sum(count for heads, count in times.items() if Head(1, 2) in heads)
    assert with_chosen / 2000 == pytest.approx(19 / 49, abs=0.05)


def test_the_seed_and_not_the_order_decides():
    found = random_head_sets(CHOSEN, CANDIDATES, 8, seed=5)
    assert found == random_head_sets(CHOSEN[::-1] + CHOSEN[:1], CANDIDATES[::-1], 8, seed=5)
    assert found != random_head_sets(CHOSEN, CANDIDATES, 8, seed=6)


def test_a_set_that_is_all_there_is_has_no_others():
    assert random_head_sets(parse_heads(["L0H0", "L0H1"], 1, 2), parse_heads("all", 1, 2), 20) == []
    assert random_head_sets([], CANDIDATES, 20) == []


def test_chosen_heads_need_not_be_candidates():
    own, rest = parse_heads(["L0H0", "L2H1"], 3, 3), parse_heads(["L0H1", "L0H2", "L2H0"], 3, 3)
    assert set(random_head_sets(own, rest, 20)) == {rest[::2], rest[1:]}


@pytest.mark.parametrize(
    ("chosen", "n", "sentence"),
    [
        (["L1H2", "L1H0", "L3H1"], 5, "Layer 1 has 2 chosen heads and 1 candidates"),
        (["L0H2"], 5, "Layer 0 has 1 chosen heads and 0 candidates"),
        (["L3H1"], 0, "n=0 was given"),
    ],
)
def test_what_has_no_random_sets_is_refused(chosen, n, sentence):
    candidates = parse_heads(["L1H2", "L3H0", "L3H1", "L3H2"], 4, 5)
    with pytest.raises(ValueError, match=sentence):
        random_head_sets(parse_heads(chosen, 4, 5), candidates, n)
