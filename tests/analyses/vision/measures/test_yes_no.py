"""Answers by margins: every measure by hand, thresholds by trying all of them."""

import numpy as np
import pytest

from headlens.analyses.vision.measures.yes_no import YesNo, fitted_constant

MARGINS = np.array([2.0, -1.0, 3.0, 0.5, -2.0, 0.0, 1.0, -0.5], np.float32)
TRUTH = np.array([True, True, True, False, False, False, False, True])


def answers(margins=MARGINS, truth=TRUTH, valid=None, clusters=None):
    margins, truth = np.array(margins, np.float32), np.array(truth, bool)
    valid = np.ones(len(truth), bool) if valid is None else np.array(valid, bool)
    return YesNo(margins, truth, valid, clusters or tuple(f"scene {at // 2}" for at in range(len(truth))))


def random_answers(seed, n=41):
    draw = np.random.default_rng(seed)
    truth = draw.random(n) < 0.5
    return answers(draw.normal(1, 2, n).round(1) + truth, truth)


def test_measures_by_hand():
    found = answers(valid=[1, 1, 1, 1, 1, 1, 0, 0])
    # said yes: 2.0, 3.0 (rightly), 0.5, 1.0 (wrongly); a margin of 0 says no
    assert found.yes.tolist() == [True, False, True, True, False, False, True, False]
    assert found.accuracy == 4 / 8 and found.precision == 2 / 4 and found.recall == 2 / 4 and found.f1 == 0.5
    assert found.yes_ratio == 4 / 8 and found.false_positive_rate == 2 / 4 and found.valid_ratio == 6 / 8
    # 2.0 and 3.0 are above all four; -1.0 and -0.5 above -2.0 alone
    assert found.auroc == 10 / 16
    assert found.margin_if_yes == pytest.approx(3.5 / 4) and found.margin_if_no == pytest.approx(-0.5 / 4)


def test_a_constant_moves_answers_and_leaves_the_order_alone():
    found = answers()
    up = found.shifted(2.5)
    assert up.recall == 1 and up.yes_ratio == 1 and up.auroc == found.auroc
    assert up.margin_if_no == pytest.approx(found.margin_if_no + 2.5)
    assert np.array_equal(up.valid, found.valid) and up.clusters == found.clusters
    with pytest.raises(ValueError, match="a finite number"):
        found.shifted(float("nan"))


def test_undefined_measures_are_missing():
    none = answers([-1, -2], [False, False])
    assert np.isnan([none.recall, none.precision, none.f1, none.auroc, none.margin_if_yes]).all()
    assert none.accuracy == 1 and none.false_positive_rate == 0
    assert np.isnan(answers([], [], clusters=()).accuracy)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target", [0.05, 0.5, 0.7, 1.0])
def test_at_recall_is_the_threshold_with_the_fewest_false_positives(seed, target):
    found = random_answers(seed)
    reached = found.at_recall(target)
    thresholds = [*np.unique(found.margins), found.margins.min() - 1]
    tried = [(found.margins > at) for at in thresholds]
    enough = [yes for yes in tried if yes[found.truth].mean() >= target - 1e-12]
    assert reached.recall == min(yes[found.truth].mean() for yes in enough)
    assert reached.false_positive_rate == min(yes[~found.truth].mean() for yes in enough)
    assert reached.auroc == found.auroc


def test_ties_give_more_recall_than_was_asked_for():
    assert answers([1, 1, 1, 0], [True, True, False, False]).at_recall(0.5).recall == 1


@pytest.mark.parametrize("target", [0.0, 1.1])
def test_recalls_that_cannot_be_reached_are_refused(target):
    with pytest.raises(ValueError, match="above 0"):
        answers().at_recall(target)
    with pytest.raises(ValueError, match="over 0 questions"):
        answers([1.0], [False]).at_recall(0.5)


@pytest.mark.parametrize("seed", range(6))
def test_no_constant_does_better_than_the_fitted_one(seed):
    found = random_answers(seed)
    constant = fitted_constant(found)
    tried = {at: found.shifted(at).accuracy for at in np.arange(-8, 8, 0.013)}
    assert found.shifted(constant).accuracy == max(tried.values()) >= found.accuracy
    equal = [abs(at) for at, accuracy in tried.items() if accuracy == max(tried.values())]
    # the middle of the interval that is nearest to 0, whose near end the trials find
    assert constant == 0 or abs(constant) >= min(equal) - 0.013


@pytest.mark.parametrize(
    ("margins", "truth", "expected"),
    [
        ([1, 2, 4], [False, False, True], -3.0),
        ([-3, -1], [True, True], 4.0),
        ([3, 1], [False, False], -4.0),
        ([-1, 1], [False, True], 0.0),
        # as good farther away
        ([1, 2, 3, 4], [False, True, False, True], -1.5),
        ([-1, -2, -3, -4], [True, False, True, False], 1.5),
        # as good either way: that with fewer yes
        ([-2, 2, 2, -2], [True, False, True, False], 0.0),
        ([-1, -3, 1, 3], [True, False, False, True], -2.0),
    ],
)
def test_constants_by_hand(margins, truth, expected):
    assert fitted_constant(answers(margins, truth)) == expected


def test_a_constant_needs_samples():
    with pytest.raises(ValueError, match="no samples"):
        fitted_constant(answers([], [], clusters=()))


def test_a_sentence_never_has_accuracy_alone():
    told = answers().described()
    assert all(word in told for word in ("Accuracy 0.500", "AUROC 0.625", "recall 0.500", "yes ratio 0.500"))


def test_the_table_has_a_row_for_each_sample():
    table = answers().to_frame()
    assert table["said"].tolist()[:4] == ["yes", "no", "yes", "yes"] and table["right"].sum() == 4
    assert table["cluster"].tolist()[:3] == ["scene 0", "scene 0", "scene 1"]


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="of lengths"):
        answers(clusters=("one",))
    with pytest.raises(ValueError, match="margin of sample 1 is NaN"):
        answers([1, np.nan], [True, False])
