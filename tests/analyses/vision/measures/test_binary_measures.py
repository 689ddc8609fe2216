"""Measures with weights against counting samples as often as their weights say, one pair after the other."""

import numpy as np
import pytest

from headlens.analyses.vision.measures.binary_measures import auroc, f1, mean, share

DRAW = np.random.default_rng(5)
TRUTH = DRAW.random(23) < 0.4
# few different scores, so that many are equal
SCORES = DRAW.integers(-3, 4, 23) + TRUTH
WEIGHTS = DRAW.integers(0, 4, (7, 23)).astype(float)


def repeated(weights, *arrays):
    times = weights.astype(int)
    return [np.repeat(array, times) for array in arrays]


def pair_by_pair(scores, truth):
    pairs = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    return np.mean(pairs) if pairs else np.nan


def test_auroc_is_the_share_of_pairs_in_order():
    found = auroc(WEIGHTS, SCORES.astype(float), TRUTH)
    assert found == pytest.approx([pair_by_pair(*repeated(row, SCORES, TRUTH)) for row in WEIGHTS], abs=1e-12)
    assert auroc(np.ones(23), SCORES.astype(float), TRUTH) == pytest.approx(pair_by_pair(SCORES, TRUTH), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([1.0, 2.0, 3.0], [False, False, True], 1.0),
        ([3.0, 2.0, 1.0], [False, False, True], 0.0),
        ([1.0, 1.0, 1.0], [False, False, True], 0.5),
        ([1.0, 2.0, 2.0, 3.0], [False, True, False, True], 0.875),
        ([1.0, 2.0], [True, True], np.nan),
        ([], [], np.nan),
    ],
)
def test_auroc_of_cases_by_hand(scores, truth, expected):
    found = auroc(np.ones(len(scores)), np.array(scores), np.array(truth, bool))
    assert found == pytest.approx(expected, nan_ok=True)


def test_shares_means_and_f1_count_samples_as_often_as_they_weigh():
    yes, values = SCORES > 0, SCORES.astype(float)
    for row, by_share, by_mean, by_f1 in zip(
        WEIGHTS, share(WEIGHTS, yes, TRUTH), mean(WEIGHTS, values, ~TRUTH), f1(WEIGHTS, yes, TRUTH), strict=True
    ):
        said, true, all_values = repeated(row, yes, TRUTH, values)
        precision, recall = true[said].mean(), said[true].mean()
        assert by_share == pytest.approx(recall) and by_mean == pytest.approx(all_values[~true].mean())
        assert by_f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_what_is_not_defined_is_missing():
    nothing, ones = np.zeros(3, bool), np.ones(3)
    assert np.isnan(share(ones, ~nothing, nothing)) and np.isnan(mean(ones, ones, nothing))
    assert np.isnan(f1(ones, nothing, nothing)) and f1(ones, ~nothing, nothing) == 0
