"""Two maps compared: against scipy and counting by hand, over the cells of both, in words that warn."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from scipy import stats

from headlens.analyses.comparison import compare
from headlens.analyses.headmap import HeadMap

ABOUT = {"name": "patching effect", "units": "fraction", "sign": "Positive means: carries the clean behaviour."}
ORIGIN = {"model": "m", "weights_hash": "w", "task": "ioi", "task_hash": "p", "site": "z"}
ORIGIN |= {"direction": "denoising", "metric": "logit_diff"}


def map_of(samples, **fields):
    fields = {"dims": ("layer", "head"), "clusters": tuple("abcdeabcdeab"[: len(samples)]), **ABOUT, **fields}
    return HeadMap.from_samples(samples.astype(np.float32), **{"provenance": ORIGIN, **fields})


@pytest.fixture
def maps():
    """Make two maps of 4 layers and 5 heads that are alike, each with a cell that is missing."""
    draw = np.random.default_rng(0)
    samples = draw.normal(size=(4, 5)) + 1.5 * draw.normal(size=(2, 12, 4, 5))
    samples[0, :, 1, 2] = samples[1, :, 3, 3] = np.nan
    return [map_of(part) for part in samples]


def test_the_cells_of_both_are_correlated_and_counted(maps):
    first, second = maps
    found = compare(first, second, k=6, resamples=100)
    kept = ~np.isnan(first.values) & ~np.isnan(second.values)
    left, right = first.values[kept], second.values[kept]
    assert found.cells == kept.sum() == 18
    assert found.correlation == pytest.approx(stats.spearmanr(left, right).statistic)
    assert found.correlation_interval.low < found.correlation_interval.high <= 1
    tops = [set(sorted(range(18), key=lambda cell, side=side: -abs(side[cell]))[:6]) for side in (left, right)]
    assert found.overlap == len(tops[0] & tops[1]) and found.jaccard == found.overlap / len(tops[0] | tops[1])
    assert np.array_equal(found.difference.values, first.values - second.values, equal_nan=True)
    assert np.isnan(found.difference.ci().low).sum() == 2
    with pytest.raises(FrozenInstanceError):
        found.k = 3


def test_what_is_on_top_is_large_in_either_sign():
    flat = np.ones((4, 1, 4), np.float32)
    found = compare(map_of(flat * [-9, 1, 2, 3]), map_of(flat * [9, -7, 2, 3]), k=1, resamples=20)
    assert found.overlap == found.jaccard == 1 and found.overlap_p == pytest.approx(1 / 4)


def test_chance_is_that_of_random_choices(maps):
    found = compare(*maps, k=6, resamples=20)
    draw = np.random.default_rng(1)
    shared = np.array([len({*draw.permutation(18)[:6]} & {*draw.permutation(18)[:6]}) for _ in range(20_000)])
    assert found.expected_overlap == pytest.approx(2) and shared.mean() == pytest.approx(2, abs=0.05)
    assert found.overlap_p == pytest.approx((shared >= found.overlap).mean(), abs=0.01)
    everything = compare(*maps, k=50, resamples=20)
    assert everything.k == everything.overlap == everything.expected_overlap == 18
    assert everything.jaccard == everything.overlap_p == 1


def test_maps_are_matched_by_their_coords(maps):
    first, second = maps
    coords = {"layer": (0, 1, 2, 3), "head": (0, 1, 2, 3, 4)}
    turned = replace(second.sel(layer=[3, 1, 2], head=[4, 0, 2, 1]))
    found = compare(first, turned, resamples=20)
    assert found.difference.coords == {"layer": (1, 2, 3), "head": (0, 1, 2, 4)} and first.coords == coords
    expected = (first.values - second.values)[1:][:, [0, 1, 2, 4]]
    assert np.array_equal(found.difference.values, expected, equal_nan=True)
    assert found.cells == 11
    named = compare(
        replace(first, dims=("layer", "pos"), coords={"pos": ("a", "b", "c", "d", "e")}),
        replace(second, dims=("layer", "pos"), coords={"pos": ("e", "x", "c", "y", "z")}),
        resamples=20,
    )
    assert named.difference.coords["pos"] == ("c", "e") and named.difference.label((0, 1)) == "L0@e"


def test_a_map_equals_itself(maps):
    found = compare(maps[0], maps[0], k=4, resamples=50)
    assert found.correlation == pytest.approx(1) and found.overlap == 4 and found.notes == ()
    assert found.correlation_interval.low == pytest.approx(1) and not np.nanmax(np.abs(found.difference.samples))


def test_the_same_seed_gives_the_same_interval_and_a_higher_level_a_wider_one(maps):
    one, again, wide = (compare(*maps, level=level, resamples=200) for level in (0.5, 0.5, 0.95))
    assert one.correlation_interval.low == again.correlation_interval.low > wide.correlation_interval.low
    assert compare(*maps, level=0.5, resamples=200, seed=1).correlation_interval.high != one.correlation_interval.high


def test_it_is_told_in_words(maps):
    found = compare(*maps, k=6, resamples=100)
    lines = found.described().splitlines()
    assert lines[0] == "First:  patching effect of m on ioi, 12 prompts (fraction)" and lines[2] == "Cells in both: 18"
    assert lines[3].startswith(f"Rank correlation (Spearman): {found.correlation:+.3f} (95% interval ")
    assert lines[3].endswith("reflected bootstrap over 5 templates, jointly, 100 resamples, seed 0)")
    assert lines[4].startswith(f"Of the 6 largest by magnitude, {found.overlap} are in both (Jaccard ")
    assert "chance gives 2 on average" in lines[4] and len(lines) == 5
    bare = compare(maps[0], replace(maps[1], samples=None))
    assert bare.correlation_interval is None and "(no interval: a map keeps no samples" in bare.described()
    assert bare.difference.samples is None


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"metric": "prob"}, "the metrics differ (logit_diff; prob)."),
        ({"site": "q"}, "the sites differ (z; q)."),
        ({"direction": "noising"}, "the directions differ (denoising; noising)."),
        ({"model": "n", "weights_hash": "v"}, "the models differ (m; n)."),
        ({"task": "mine", "task_hash": "x"}, "the tasks differ (ioi; mine)."),
        ({"weights_hash": "v"}, "the weights differ, though both models are called m."),
    ],
)
def test_what_does_not_measure_the_same_is_noted(maps, changed, note):
    first, second = maps
    found = compare(first, replace(second, provenance={**ORIGIN, **changed}), resamples=20)
    assert found.notes == (note,) and f"Note: {note}" in found.described().splitlines()
    unsaid = {key: value for key, value in ORIGIN.items() if key not in changed}
    assert compare(first, replace(second, provenance=unsaid), resamples=20).notes == ()


def test_other_units_and_one_of_several_metrics_are_noted(maps):
    first, second = maps
    found = compare(first, replace(second, units="logits"), resamples=20)
    assert found.notes == ("the units differ (fraction; logits), so look at the ranks and not at the difference.",)
    both = map_of(
        np.stack([first.samples, second.samples], -1),
        scale=np.ones((12, 2), np.float32),
        dims=("layer", "head", "metric"),
        coords={"metric": ("logit_diff", "prob")},
        provenance={**ORIGIN, "metric": ["logit_diff", "prob"]},
    )
    picked = compare(both.sel(metric="logit_diff"), both.sel(metric="prob"), resamples=20)
    assert picked.notes == ("the metrics differ (logit_diff; prob).",)
    one_of_two = compare(both, both.sel(metric=["prob"]), resamples=20)
    assert one_of_two.notes == () and one_of_two.cells == 19 and one_of_two.correlation == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda m: m.sel(layer=1), {}, r"different dims \(layer, head; head\); only maps of the same dims"),
        (lambda m: replace(m, coords={"head": range(9, 14)}), {}, "no head in common"),
        (lambda m: replace(m, values=np.full((4, 5), np.nan)), {}, "no cell that is present in both"),
        (lambda m: m, {"k": 0}, "k=0 was given"),
        (lambda m: m, {"level": 95.0}, "level=95.0 was given"),
    ],
)
def test_what_cannot_be_compared_is_refused(maps, change, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare(maps[0], change(maps[1]), **options)
