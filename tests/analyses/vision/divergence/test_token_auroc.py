"""Areas over mentions against pairs compared one by one."""

import numpy as np
import pytest

from headlens.analyses.vision.divergence.token_auroc import TokenMentions, token_mentions
from headlens.analyses.vision.divergence.token_divergence import TokenDivergence
from headlens.analyses.vision.measures.estimates import estimate, value_of

WORDS = {7: "cup", 8: "plate", 9: "star"}


def some_mentions(n=61, seed=2):
    draw = np.random.default_rng(seed)
    # few different values, so that many are tied
    values, there = draw.integers(0, 6, n).astype(float), draw.random(n) < 0.6
    words = tuple(np.array(["cup", "plate", "star", "leaf"])[draw.integers(0, 4, n)].tolist())
    return TokenMentions(values, there, words, draw.integers(0, 3, n), tuple(f"scene {at // 3}" for at in range(n)))


def area_by_hand(values, there, strata):
    """Wins over pairs, of all pairs within a stratum; and how many pairs there are."""
    wins = [
        1.0 if values[yes] > values[no] else 0.5 if values[yes] == values[no] else 0.0
        for yes in range(len(values))
        for no in range(len(values))
        if there[yes] and not there[no] and strata[yes] == strata[no]
    ]
    return (sum(wins) / len(wins) if wins else np.nan), len(wins)


STRATA = {
    "auroc": lambda given: ["all"] * len(given),
    "auroc_within_words": lambda given: given.words,
    "auroc_within_places": lambda given: given.places.tolist(),
    "auroc_within_both": lambda given: [*zip(given.words, given.places.tolist(), strict=True)],
}


@pytest.mark.parametrize("measure", [*STRATA])
def test_every_pair_compared_by_hand(measure):
    given = some_mentions()
    expected, pairs = area_by_hand(given.values, given.there, STRATA[measure](given))
    assert value_of(given, measure) == pytest.approx(expected) and given.pairs(measure) == pairs > 20


def test_strata_take_out_what_the_word_alone_says():
    # cups are high and mostly there, plates low and mostly not; within a word nothing is told apart
    values = np.array([9.0, 9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0])
    there = np.array([True, True, True, False, True, False, False, False])
    given = TokenMentions(values, there, ("cup",) * 4 + ("plate",) * 4, np.zeros(8, int), tuple("abcdefgh"))
    assert value_of(given, "auroc") == pytest.approx((3 * 3 + 3 * 0.5 + 0.5 + 0 + 0.5 * 2) / 16)
    assert value_of(given, "auroc_within_words") == 0.5


@pytest.mark.parametrize("measure", ["auroc", "auroc_within_both"])
def test_an_interval_is_that_of_clusters_drawn_with_return(measure):
    given = some_mentions(n=30)
    found = estimate(given, measure, resamples=200, seed=4)
    counts = np.random.default_rng(4).multinomial(10, np.full(10, 0.1), size=200)
    strata, order, areas = STRATA[measure](given), sorted({*given.clusters}), []
    for row in counts:
        drawn = [
            at for unit, times in enumerate(row) for at in [*range(30)] * times if given.clusters[at] == order[unit]
        ]
        area, _ = area_by_hand(given.values[drawn], given.there[drawn], [strata[at] for at in drawn])
        areas.append(area)
    assert (found.low, found.high) == pytest.approx(tuple(np.nanquantile(areas, [0.025, 0.975])))
    assert found.low < found.value < found.high


def test_mentions_are_counted_as_often_as_they_are_said():
    flat = np.zeros((4, 1, 1), np.float32)
    one = TokenDivergence(np.array([5, 7, 8, 7]), np.array([1, 2, 3, 4], np.float32), flat, 1)
    two = TokenDivergence(np.array([9]), np.array([6], np.float32), flat[:1], 1)
    found = token_mentions([one, two], WORDS, [{"cup"}, {"cup"}], ["a", "b"])
    assert found.words == ("cup", "plate", "cup", "star") and found.values.tolist() == [2, 3, 4, 6]
    assert found.there.tolist() == [True, False, True, False] and found.places.tolist() == [0, 1, 2, 0]
    assert found.clusters == ("a", "a", "a", "b")
    cups = found.of({"cup"})
    assert cups.places.tolist() == [0, 2] and cups.words == ("cup", "cup") and cups.there.all()


def test_without_a_pair_there_is_no_area():
    given = some_mentions()
    true = TokenMentions(given.values, np.ones(len(given), bool), given.words, given.places, given.clusters)
    for few in (true, token_mentions([], WORDS, [], [])):
        assert all(np.isnan(value_of(few, measure)) and few.pairs(measure) == 0 for measure in STRATA)


def test_answers_without_objects_or_clusters_are_refused():
    with pytest.raises(ValueError, match="1 sets of objects and 0 clusters were given for 0 answers"):
        token_mentions([], WORDS, [{"cup"}], [])
