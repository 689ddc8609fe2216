"""Rank correlation against scipy's, and how often its interval holds the truth."""

import numpy as np
import pytest
from scipy import stats

from headlens.analyses import uncertainty
from headlens.analyses.headmap import HeadMap
from headlens.analyses.rank_correlation import correlation_interval, spearman

ABOUT = {"name": "effect", "units": "logits", "sign": "Positive means: carries the clean behaviour."}


def map_of(samples, task_hash=None, **fields):
    fields = {"dims": ("head",), "provenance": {"task_hash": task_hash}, **fields}
    return HeadMap.from_samples(samples.astype(np.float32), **fields, **ABOUT)


def test_rows_are_correlated_as_in_scipy_over_the_cells_of_both():
    draw = np.random.default_rng(0)
    # few values, so that many are equal
    left, right = draw.integers(0, 5, size=(2, 20, 9)).astype(np.float64)
    left[draw.random(left.shape) < 0.2] = np.nan
    right[draw.random(left.shape) < 0.2] = np.nan
    for row, found in enumerate(spearman(left, right)):
        kept = ~np.isnan(left[row]) & ~np.isnan(right[row])
        assert found == pytest.approx(stats.spearmanr(left[row, kept], right[row, kept]).statistic, abs=1e-12)


def test_what_has_no_order_has_no_correlation():
    nothing, even, order = np.full(4, np.nan), np.ones(4), np.arange(4.0)
    one = np.array([1, np.nan, np.nan, np.nan])
    found = spearman(np.stack([nothing, even, one, order]), np.stack([order] * 4))
    assert np.isnan(found[:3]).all() and found[3] == pytest.approx(1)


@pytest.mark.parametrize("same", [True, False], ids=["same prompts", "other prompts"])
@pytest.mark.parametrize("at_once", [8 * 7 * 3, 10**9])
def test_the_interval_equals_a_plain_loop(same, at_once, monkeypatch):
    monkeypatch.setattr(uncertainty, "_AT_ONCE_BYTES", at_once)
    draw = np.random.default_rng(1)
    samples = draw.normal(size=(2, 10, 7)) + draw.normal(size=7)
    samples[0, :, 4] = np.nan
    clusters, scale = tuple("abcdeabcde"), draw.uniform(1, 2, 10).astype(np.float32)
    hashes = ("p", "p" if same else "q")
    first, second = (map_of(part, of, scale=scale, clusters=clusters) for part, of in zip(samples, hashes, strict=True))
    found = correlation_interval(first, second, 0.9, 40, seed=5)
    drawn = [np.random.default_rng(seed).multinomial(5, [0.2] * 5, size=40) for seed in (5, 5 if same else 6)]
    correlations = []
    for counts in zip(*drawn, strict=True):
        ratios = []
        for headmap, times in zip((first, second), counts, strict=True):
            prompts = [row for row in range(10) for _ in range(times[row % 5])]
            ratios.append(headmap.samples[prompts].sum(0) / scale[prompts].sum())
        correlations.append(stats.spearmanr(*ratios, nan_policy="omit").statistic)
    estimate = stats.spearmanr(first.values, second.values, nan_policy="omit").statistic
    low, high = np.quantile(correlations, [0.05, 0.95])
    assert found.low == pytest.approx(np.clip(2 * estimate - high, -1, 1), abs=1e-6)
    assert found.high == pytest.approx(np.clip(2 * estimate - low, -1, 1), abs=1e-6)
    ways = "5 templates, jointly" if same else "5 templates and 5 templates, independently"
    assert found.method == f"reflected bootstrap over {ways}, 40 resamples, seed 5" and found.level == 0.9


@pytest.mark.parametrize("same", [True, False], ids=["same prompts", "other prompts"])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(same):
    draw, trials = np.random.default_rng(2), 100
    reflected, percentile = 0, 0
    for trial in range(trials):
        truths = draw.laplace(size=(2, 150))
        truths[1] += 4 * truths[0]
        luck = 0.7 * draw.normal(size=(2, 24, 150))
        if same:
            luck[1] += luck[0]
        hashes = ("p", "p" if same else "q")
        maps = [map_of(of[0] + of[1], of[2]) for of in zip(truths, luck, hashes, strict=True)]
        found, truth = correlation_interval(*maps, 0.9, 300, trial), stats.spearmanr(*truths).statistic
        reflected += bool(found.low <= truth <= found.high)
        estimate = stats.spearmanr(maps[0].values, maps[1].values).statistic
        percentile += bool(2 * estimate - found.high <= truth <= 2 * estimate - found.low)
    assert reflected / trials > 0.8
    # why it is reflected
    assert percentile < reflected


def test_a_map_is_like_itself_for_sure():
    headmap = map_of(np.random.default_rng(3).normal(size=(6, 5)), "p")
    found = correlation_interval(headmap, headmap, 0.95, 200, 0)
    assert found.low == pytest.approx(1) and found.high == 1


def test_there_is_no_interval_without_prompts():
    headmap, draw = map_of(np.random.default_rng(4).normal(size=(6, 5)), "p"), np.random.default_rng(5)
    bare = HeadMap(values=draw.normal(size=5), dims=("head",), **ABOUT)
    for first, second in [(headmap, bare), (bare, headmap), (headmap, map_of(draw.normal(size=(1, 5))))]:
        assert correlation_interval(first, second, 0.95, 20, 0) is None
    assert correlation_interval(map_of(np.ones((4, 3))), map_of(np.ones((4, 3))), 0.95, 20, 0) is None
