"""Intervals against resampling whole clusters one after the other."""

import numpy as np
import pytest

from headlens.analyses.uncertainty import resample_counts, units_of
from headlens.analyses.vision.measures.estimates import estimate, paired_difference
from headlens.analyses.vision.measures.yes_no import YesNo

SCENES = tuple(f"scene {at // 3}" for at in range(36))


def answers(seed, shift=0.0, clusters=SCENES):
    draw = np.random.default_rng(seed)
    truth = np.arange(36) % 2 == 0
    margins = (draw.normal(0, 2, 36) + truth + shift).astype(np.float32)
    return YesNo(margins, truth, np.ones(36, bool), clusters)


def drawn(results, measure):
    """The measure of each result over each resample, its samples written out as often as they were drawn."""
    values = []
    for counts in resample_counts(units_of(SCENES), 300, 4):
        rows = np.repeat(np.arange(36), counts.astype(int))
        again = (
            YesNo(one.margins[rows], one.truth[rows], one.valid[rows], tuple(f"{at}" for at in range(len(rows))))
            for one in results
        )
        values.append([getattr(one, measure) for one in again])
    return np.array(values)


@pytest.mark.parametrize("measure", [*answers(0).measures])
def test_intervals_are_those_of_written_out_resamples(measure):
    found = answers(1)
    sure = estimate(found, measure, 0.9, 300, 4)
    assert sure.value == getattr(found, measure)
    if measure == "valid_ratio":
        assert np.isnan([sure.low, sure.high]).all() and "no interval" in sure.described()
        return
    low, high = np.nanquantile(drawn([found], measure)[:, 0], [0.05, 0.95])
    assert (sure.low, sure.high) == (pytest.approx(low), pytest.approx(high)) and sure.low < sure.high
    assert "12 clusters, 300 resamples, seed 4" in sure.described() and sure == found.ci(measure, 0.9, 300, 4)


def test_a_difference_draws_the_same_clusters_for_both():
    one, other = answers(1, 0.7), answers(1)
    sure = paired_difference(one, other, "recall", 0.9, 300, 4)
    values = drawn([one, other], "recall")
    assert (sure.low, sure.high) == tuple(
        pytest.approx(at) for at in np.quantile(values[:, 0] - values[:, 1], [0.05, 0.95])
    )
    assert sure.value == one.recall - other.recall > 0 and sure.measure == "difference in recall"
    back = paired_difference(other, one, "recall", 0.9, 300, 4)
    assert (back.value, back.low, back.high) == (-sure.value, pytest.approx(-sure.high), pytest.approx(-sure.low))


def test_a_result_does_not_differ_from_itself():
    same = paired_difference(answers(1), answers(1), "auroc")
    assert same.value == 0 and np.isnan(same.low)


def test_the_same_seed_gives_the_same_interval():
    found = answers(2)
    assert found.ci("accuracy") == found.ci("accuracy")
    assert found.ci("auroc", seed=1).low != found.ci("auroc").low


def test_results_on_other_samples_are_refused():
    with pytest.raises(ValueError, match="not of the same samples"):
        paired_difference(answers(1), answers(1, clusters=SCENES[::-1]), "recall")


def test_unknown_measures_and_levels_are_refused():
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        estimate(answers(1), "accuracies")
    with pytest.raises(ValueError, match="level=95.0"):
        estimate(answers(1), "accuracy", 95.0)
