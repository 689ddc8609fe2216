"""Means with their bounds, by hand."""

import numpy as np
import pytest

from headlens.analyses.multiple_choice.estimates import estimate

CLUSTERS = ("a", "b", "c")


def test_a_mean_is_of_the_prompts_that_have_one():
    found = estimate(np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]]), CLUSTERS)
    np.testing.assert_allclose(found.value, [3, 4])
    # three prompts drawn with return: from all alike at the one end to all alike at the other
    np.testing.assert_allclose(found.low, [1, 2])
    np.testing.assert_allclose(found.high, [5, 6])
    assert [*found.columns("share")] == ["share", "share_low", "share_high"]


def test_a_ratio_is_of_sums():
    found = estimate(np.array([[1.0], [3.0]]), CLUSTERS[:2], scale=np.array([[10.0], [2.0]]))
    assert found.value == pytest.approx(4 / 12) and (found.low[0], found.high[0]) == pytest.approx((0.1, 1.5))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_a_single_prompt_has_no_bounds(shape):
    found = estimate(np.ones((1, *shape)), CLUSTERS[:1])
    assert found.value.shape == found.low.shape == shape and (found.value == 1).all()
    assert np.isnan(found.low).all() and np.isnan(found.high).all()
