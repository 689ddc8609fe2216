"""Rank among random sets: by hand, how often a set without merit ranks high, and together with random head sets."""

import numpy as np
import pytest

from headlens.analyses.head_sets import random_head_sets
from headlens.analyses.null_sets import among_random_sets
from headlens.hooks.sites import Head, parse_heads


def test_rank_mean_and_range_by_hand():
    found = among_random_sets(2.0, [0.5, 2.0, -1.0, 3.5])
    assert (found.sets, found.as_good, found.p) == (4, 2, 3 / 5)
    assert (found.mean, found.low, found.high) == (1.25, -1.0, 3.5)
    assert found.described() == (
        "The chosen heads gain +2.0 points; 4 random sets of as many heads in each layer gain +1.2 on average (-1.0 to "
        "+3.5), and 2 of them as much or more (p = 0.6)."
    )
    assert among_random_sets(9.0, np.zeros(19)).p == 1 / 20 and among_random_sets(-9.0, np.zeros(19)).p == 1


def test_gains_that_differ_by_rounding_are_equal():
    assert 0.1 + 0.2 > 0.3 and among_random_sets(0.1 + 0.2, [0.3, 0.29]).as_good == 1


def test_without_random_sets_nothing_is_claimed():
    found = among_random_sets(5.0, [])
    assert found.p == 1 and np.isnan([found.mean, found.low, found.high]).all()
    assert "no random sets" in found.described()


@pytest.mark.parametrize("per_layer", [2, 3, 9])
def test_a_set_without_merit_ranks_high_as_often_as_p_says(per_layer):
    # one head of each of two layers; which sets are better is chance
    candidates = parse_heads("all", 2, per_layer)
    draw, found = np.random.default_rng(per_layer), []
    for trial in range(400):
        worth = dict(zip(candidates, draw.normal(size=len(candidates)), strict=True))
        chosen = tuple(Head(layer, int(draw.integers(per_layer))) for layer in range(2))
        gains = [sum(worth[head] for head in heads) for heads in random_head_sets(chosen, candidates, 20, trial)]
        found.append(among_random_sets(sum(worth[head] for head in chosen), gains).p)
    for share in (1 / 21, 0.1, 0.25, 0.5):
        assert np.mean(np.array(found) <= share) <= share + 4 * np.sqrt(share * (1 - share) / 400)
    assert np.mean(np.array(found) <= 0.5) > 0.35


@pytest.mark.parametrize(("gain", "gains"), [(np.nan, [1.0]), (1.0, [0.0, np.inf])])
def test_what_has_no_rank_is_refused(gain, gains):
    with pytest.raises(ValueError, match="NaN or infinite"):
        among_random_sets(gain, gains)
