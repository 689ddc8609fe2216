"""Overlap of the heads on top: counts by hand, and chance by drawing."""

import numpy as np
import pytest

from headlens.analyses.circuits.overlap import overlap, rank_biased_by_chance, rank_biased_overlap, together
from headlens.analyses.headmap import HeadMap


def head_map(values):
    return HeadMap(np.array(values), ("layer", "head"), "effect", "logits", "positive carries")


FIRST = head_map([[0.1, 9, 0.2], [8, -7, 0.3], [0.4, 0.5, 6]])
SECOND = head_map([[0.1, -9, 0.2], [0.3, 8, 7], [0.4, 0.5, 0.6]])


def test_which_heads_are_shared():
    found = overlap(FIRST, SECOND, 3)
    assert found.shared == ("L0H1", "L1H1")
    assert found.first_only == ("L1H0",) and found.second_only == ("L1H2",)
    assert found.fraction == pytest.approx(2 / 3) and found.jaccard == pytest.approx(2 / 4)


def test_chance_keeps_how_many_heads_of_each_layer_are_on_top():
    found, draw = overlap(FIRST, SECOND, 3), np.random.default_rng(0)
    counts = np.zeros(4)
    for _ in range(20000):
        layers = [(draw.choice(3, n, False), draw.choice(3, n, False)) for n in (1, 2)]
        counts[sum(len({*a} & {*b}) for a, b in layers)] += 1
    assert np.allclose(found.chance, counts / 20000, atol=0.015)
    assert found.expected == pytest.approx(1 / 3 + 4 / 3)
    assert found.p == pytest.approx(sum(found.chance[2:]))
    assert found.band == (1, 3)


def test_stages_add_up():
    parts = {"logits": overlap(FIRST, SECOND, 3), "queries": overlap(FIRST, FIRST, 2)}
    whole = together(parts)
    assert whole.k == 5 and whole.shared[-1] == "queries L1H0" and len(whole.shared) == 4
    assert sum(whole.chance) == pytest.approx(1)
    assert whole.expected == pytest.approx(sum(part.expected for part in parts.values()))


def test_heads_missing_from_a_map_count_in_neither():
    found = overlap(FIRST, head_map([[0.1, np.nan, 0.2], [0.3, 8, 7], [0.4, 0.5, 0.6]]), 2)
    assert found.shared == ("L1H1",) and found.first_only == ("L1H0",)


@pytest.mark.parametrize(("k", "words"), [(0, "k=0"), (10, "1 to 9")])
def test_a_k_that_is_no_number_of_heads_is_refused(k, words):
    with pytest.raises(ValueError, match=words):
        overlap(FIRST, SECOND, k)


def test_maps_of_other_models_are_refused():
    with pytest.raises(ValueError, match="of one model"):
        overlap(FIRST, head_map([[1.0, 2], [3, 4]]), 2)


def test_rank_biased_overlap_by_hand():
    # the rankings a b c and b a c: agreement 0, 1, 1
    one, other = head_map([[3.0, 2, 1]]), head_map([[2.0, 3, 1]])
    p = 0.9
    assert rank_biased_overlap(one, other) == pytest.approx(p**3 + (1 - p) / p * (0 + p**2 + p**3))
    assert rank_biased_overlap(one, one) == pytest.approx(1)
    assert rank_biased_overlap(one, head_map([[1.0, 2, 3]]), 0.5) < 0.5


def test_chance_of_rank_biased_overlap_keeps_layers():
    # all that counts is in one layer of two heads
    one, other = head_map([[9.0, 8], [0.2, 0.1]]), head_map([[9.0, 8], [0.1, 0.2]])
    drawn = rank_biased_by_chance(one, other, draws=50)
    assert len(drawn) == 50 and drawn.min() > 0.5 and drawn.max() <= 1
    assert np.array_equal(drawn, rank_biased_by_chance(one, other, draws=50))
