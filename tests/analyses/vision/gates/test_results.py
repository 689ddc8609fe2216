"""Results of several seeds together, and what is made of two of them, against sums by hand."""

import numpy as np
import pytest

from headlens.analyses.vision.gates.results import Beside, Means, Recovered, Results, combined, over_seeds, pooled
from headlens.analyses.vision.measures.estimates import value_of
from made_answers import answers


def test_pooled_answers_are_all_of_them():
    one, other = answers(seed=1, fpr=0.5), answers(seed=2, fpr=0.1, n=7)
    whole = pooled([one, other])
    assert whole.clusters == one.clusters + other.clusters and len({*whole.clusters}) == 27
    np.testing.assert_array_equal(whole.margins, np.concatenate([one.margins, other.margins]))
    assert whole.truth.sum() == one.truth.sum() + other.truth.sum()
    means = pooled(
        [Means({"a": np.ones(2), "b": np.zeros(2)}, ("x", "y")), Means({"b": np.ones(1), "a": np.zeros(1)}, ("z",))]
    )
    assert value_of(means, "a") == pytest.approx(2 / 3) and value_of(means, "b") == pytest.approx(1 / 3)


def test_a_figure_has_the_value_of_all_and_the_range_of_seeds():
    results = over_seeds([answers(seed=1, fpr=0.5), answers(seed=2, fpr=0.1)])
    found = results.figure("G2", "parted", "false_positive_rate", 200)
    assert found.value == pytest.approx(0.3) and (found.least, found.most) == (0.1, 0.5)
    assert found.low < 0.3 < found.high
    before = over_seeds([answers(seed=1, fpr=0.6), answers(seed=2, fpr=0.6)])
    change = results.change("G2", "parted", "false_positive_rate", before, 200)
    assert change.measure == "change in false_positive_rate" and change.value == pytest.approx(-0.3)
    assert (change.least, change.most) == (pytest.approx(-0.5), pytest.approx(-0.1)) and change.high < 0


@pytest.mark.parametrize(
    ("rates", "ratio", "excess"),
    [((0.5, 0.1), 5.0, 0.3), ((0.5, 0.0), np.nan, 0.5), ((0.0, 0.0), np.nan, 0.0), ((0.1, 0.2), 0.5, -0.3)],
    ids=["ratio", "none of the second", "none of either", "less"],
)
def test_two_rates_beside_each_other(rates, ratio, excess):
    sides = [answers(fpr=rate) for rate in rates]
    found = Beside(*sides, "false_positive_rate", 2.0)
    assert value_of(found, "ratio") == pytest.approx(ratio, nan_ok=True)
    assert value_of(found, "excess") == pytest.approx(excess)
    assert value_of(found, "difference") == pytest.approx(rates[0] - rates[1])


def test_scenes_are_drawn_for_both_sides_together():
    # the same answers on both sides: however scenes are drawn, nothing is left between them
    results = combined(lambda one: Beside(one, one, "false_positive_rate", 1.0), over_seeds([answers(fpr=0.3)]))
    found = results.figure("G2", "same", "difference", 100)
    assert found.value == 0 and np.isnan([found.low, found.high]).all()
    apart = results.figure("G2", "same", "ratio", 100)
    assert apart.value == 1


def test_what_is_recovered_is_a_share_of_what_was_lost():
    lost, left = np.array([1.0, 3.0, 0.0]), np.array([1.0, 1.0, 0.5])
    assert value_of(Recovered(lost, left, ("a", "b", "c")), "recovered") == pytest.approx(1 - 2.5 / 4)
    assert np.isnan(value_of(Recovered(lost * 0, left, ("a", "b", "c")), "recovered"))


def test_seeds_without_a_value_have_no_range():
    results = Results((answers(fpr=0.0, n=2),), answers(fpr=0.0, n=2))
    one = combined(lambda each: Beside(each, each, "false_positive_rate", 1.0), results)
    found = one.figure("G2", "none", "ratio", 20)
    assert np.isnan([found.value, found.low, found.high, found.least, found.most]).all()
