"""Bootstrap intervals: their definition by a plain loop, their coverage, and what they refuse."""

import numpy as np
import pytest

from headlens.analyses import uncertainty
from headlens.analyses.uncertainty import (
    ratio_interval,
    ratio_of_means,
    resample_counts,
    resampled_ratios,
    units_of,
)


def by_loop(samples, scale, clusters, level, resamples, seed):
    """The same resampling, one resample and one cell at a time."""
    names = sorted(set(clusters))
    drawn = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), size=resamples)
    ratios = []
    for counts in drawn:
        prompts = []
        for name, times in zip(names, counts, strict=True):
            prompts += [prompt for prompt, own in enumerate(clusters) if own == name] * times
        ratios.append(samples[prompts].astype(np.float64).sum(0) / scale[prompts].astype(np.float64).sum())
    return np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)


@pytest.mark.parametrize("at_once", [8 * 50, 10**9])
def test_clustered_resampling_equals_a_plain_loop(at_once, monkeypatch):
    monkeypatch.setattr(uncertainty, "_AT_ONCE_BYTES", at_once)
    draw = np.random.default_rng(1)
    samples, scale = draw.normal(1, 1, size=(13, 3, 2)), draw.uniform(1, 3, size=13)
    clusters = list("abcdabcdabcda")
    found = ratio_interval(samples, scale, clusters, 0.9, 50, seed=5)
    low, high = by_loop(samples, scale, clusters, 0.9, 50, 5)
    np.testing.assert_allclose(found.low, low, rtol=1e-6)
    np.testing.assert_allclose(found.high, high, rtol=1e-6)
    assert found.method == "percentile bootstrap over 4 templates, 50 resamples, seed 5"


def test_prompts_of_one_template_are_resampled_singly():
    samples, scale = np.random.default_rng(2).normal(size=(9, 4)), np.ones(9)
    together = ratio_interval(samples, scale, ["same"] * 9)
    singly = ratio_interval(samples, scale, [f"prompt {prompt}" for prompt in range(9)])
    assert np.array_equal(together.low, singly.low) and "over 9 prompts" in together.method


def test_alike_prompts_do_not_feign_certainty():
    # ten copies of each of six template effects know no more than the six
    effects = np.random.default_rng(3).normal(size=(6, 1))
    samples = np.repeat(effects, 10, axis=0)
    clustered = ratio_interval(samples, np.ones(60), [f"template {row // 10}" for row in range(60)])
    single = ratio_interval(samples, np.ones(60), [f"prompt {row}" for row in range(60)])
    assert (clustered.high - clustered.low).item() > 2 * (single.high - single.low).item()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    draw, hits, trials = np.random.default_rng(4), 0, 300
    for trial in range(trials):
        effects = np.repeat(draw.normal(size=(24, 1)), 3, axis=0) + 1
        samples = effects + draw.normal(0, 0.5, size=(72, 1))
        found = ratio_interval(samples, np.ones(72), [str(row // 3) for row in range(72)], 0.9, 400, trial)
        hits += bool(found.low[0] <= 1 <= found.high[0])
    assert 0.83 < hits / trials < 0.95


def test_each_metric_is_divided_by_its_own_scale():
    draw = np.random.default_rng(6)
    samples, scale = draw.normal(size=(7, 2, 5, 3)), draw.uniform(1, 2, size=(7, 3))
    samples[3, 1, 4, 2] = np.nan
    together = ratio_interval(samples, scale, list("abcabca"), resamples=50)
    for metric in range(3):
        part, own = samples[..., metric], scale[:, metric]
        np.testing.assert_allclose(
            ratio_of_means(samples, scale)[..., metric],
            np.nansum(part, 0) / np.where(np.isnan(part), 0, own[:, None, None]).sum(0),
        )
        alone = ratio_interval(part, own, list("abcabca"), resamples=50)
        np.testing.assert_allclose(together.low[..., metric], alone.low, rtol=1e-6)
        np.testing.assert_allclose(together.high[..., metric], alone.high, rtol=1e-6)


@pytest.mark.parametrize("at_once", [8 * 6 * 7, 10**9])
def test_resampled_maps_are_the_ratios_of_the_drawn_prompts(at_once, monkeypatch):
    monkeypatch.setattr(uncertainty, "_AT_ONCE_BYTES", at_once)
    draw = np.random.default_rng(7)
    samples, scale, clusters = draw.normal(size=(9, 3, 2)), draw.uniform(1, 2, size=9), list("cabbacbca")
    counts = resample_counts(units_of(clusters), 20, seed=3)
    found = np.concatenate(list(resampled_ratios(samples, scale, counts)))
    assert found.shape == (20, 6)
    for row, times in zip(found, counts, strict=True):
        prompts = [prompt for prompt in range(9) for _ in range(int(times[prompt]))]
        np.testing.assert_allclose(row, (samples[prompts].sum(0) / scale[prompts].sum()).reshape(-1))
        assert all(len({times[prompt] for prompt in range(9) if clusters[prompt] == name}) == 1 for name in "abc")
        assert sum(times[clusters.index(name)] for name in "abc") == 3


def test_missing_cells_stay_missing():
    samples = np.array([[1.0, np.nan, np.nan], [2.0, 4.0, np.nan], [3.0, 6.0, np.nan]])
    found = ratio_interval(samples, np.ones(3), ["a", "b", "c"])
    assert np.isnan(found.low).tolist() == [False, False, True]
    np.testing.assert_allclose(ratio_of_means(samples, np.array([1.0, 2.0, 3.0]))[:2], [6 / 6, 10 / 5])


@pytest.mark.parametrize(
    ("level", "prompts", "sentence"), [(95.0, 4, "level=95"), (0.0, 4, "between 0 and 1"), (0.9, 1, "2 prompts")]
)
def test_what_has_no_interval_is_refused(level, prompts, sentence):
    with pytest.raises(ValueError, match=sentence):
        ratio_interval(np.ones((prompts, 2)), np.ones(prompts), ["a"] * prompts, level)


def test_a_cell_that_one_template_has_gets_no_interval():
    samples = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan], [2.0, np.nan, 1.0], [4.0, np.nan, 3.0]], np.float32)
    interval = ratio_interval(samples, np.ones(4, np.float32), ["a", "a", "b", "b"])
    assert np.isfinite(interval.low[0]) and np.isnan(interval.low[1:]).all() and np.isnan(interval.high[1:]).all()
