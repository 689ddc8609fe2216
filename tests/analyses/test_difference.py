"""One map minus another: its values, and its interval against a bootstrap that divides anew in every resample."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.difference import difference, same_prompts
from headlens.analyses.headmap import HeadMap

ABOUT = {"name": "patching effect", "units": "fraction", "sign": "Positive means: carries the clean behaviour."}
TEMPLATES = tuple(f"template {prompt % 12}" for prompt in range(48))


def map_of(samples, scale=None, **fields):
    fields = {"dims": ("layer", "head"), "clusters": TEMPLATES[: len(samples)], **fields}
    return HeadMap.from_samples(samples.astype(np.float32), scale, **{**ABOUT, **fields})


def pair(same=True):
    """Make two maps of prompts that do much the same to both, with scales that vary; of the same prompts or not.

    Half of the prompts of each template lack one cell in the second map.
    """
    draw = np.random.default_rng(0)
    luck = np.repeat(draw.normal(size=(1, 12, 3, 2)), 4, 0).reshape(48, 3, 2)
    maps = []
    for effect, hash_ in ((1.0, "p"), (0.6, "p" if same else "q")):
        scale = draw.uniform(1, 4, size=48).astype(np.float32)
        samples = (effect + 0.5 * luck + draw.normal(0, 0.3, size=luck.shape)) * scale[:, None, None] ** 0.5
        if maps:
            samples[12:36, 2, 1] = np.nan
        maps.append(map_of(samples, scale, provenance={"task_hash": hash_, "model": "m", "effect": effect}))
    return maps


def resampled_difference(first, second, jointly, resamples=4000):
    """Draw templates, then prompts by name, then divide, and subtract: the bounds of 95%."""
    draw, found = np.random.default_rng(9), []
    rows = {name: [at for at, own in enumerate(TEMPLATES) if own == name] for name in set(TEMPLATES)}
    for _ in range(resamples):
        ratios, prompts = [], None
        for headmap in (first, second):
            if prompts is None or not jointly:
                prompts = [row for name in draw.choice(sorted(rows), len(rows)) for row in rows[name]]
            samples, scale = headmap.samples[prompts], headmap.scale[prompts, None, None]
            ratios.append(np.nansum(samples, 0) / (scale * ~np.isnan(samples)).sum(0))
        found.append(ratios[0] - ratios[1])
    return np.quantile(found, [0.025, 0.975], axis=0)


@pytest.mark.parametrize("same", [True, False], ids=["same prompts", "other prompts"])
def test_the_interval_is_that_of_prompts_drawn_anew(same):
    first, second = pair(same)
    found = difference(first, second)
    assert same_prompts(first, second) is same
    assert np.array_equal(found.values, first.values - second.values)
    np.testing.assert_allclose(found.samples.mean(0) / found.scale.mean(), found.values, atol=1e-6)
    low, high = resampled_difference(first, second, jointly=same)
    width = high - low
    assert np.abs(found.ci().low - low).max() < 0.12 * width.max()
    assert np.abs(found.ci().high - high).max() < 0.12 * width.max()
    np.testing.assert_allclose(found.ci().high - found.ci().low, width, rtol=0.12)


def test_what_prompts_do_to_both_maps_cancels():
    joint, apart = difference(*pair(True)).ci(), difference(*pair(False)).ci()
    assert (joint.high - joint.low).mean() < 0.6 * (apart.high - apart.low).mean()


def test_without_scales_samples_are_subtracted():
    draw = np.random.default_rng(1)
    samples = draw.normal(size=(2, 7, 3, 2))
    one, other = (map_of(part, provenance={"task_hash": "p"}) for part in samples)
    np.testing.assert_allclose(difference(one, other).samples, one.samples - other.samples, atol=1e-6)


@pytest.mark.parametrize("same", [True, False], ids=["same prompts", "other prompts"])
def test_missing_prompts_and_cells(same):
    first, second = pair(same)
    holes = np.array(second.samples)
    holes[5:9, 0, 1] = np.nan
    holes[:, 2, 0] = np.nan
    second = map_of(holes, second.scale, provenance=second.provenance)
    found = difference(first, second)
    assert np.isnan(found.values[2, 0]) and np.isnan(found.ci().low[2, 0]) and np.isnan(found.samples[:, 2, 0]).all()
    np.testing.assert_allclose(found.samples.mean(0), found.values, atol=1e-6)
    whole = np.delete(np.arange(48), range(5, 9))
    kept = second.samples[whole, 0, 1].sum() / second.scale[whole].sum()
    assert found.values[0, 1] == pytest.approx(first.values[0, 1] - kept, abs=1e-6)


def test_each_metric_has_its_own_scale():
    first, second = pair()
    dims, coords = ("layer", "head", "metric"), {"metric": ("prob", "kl")}
    both = [
        map_of(
            np.stack([headmap.samples, 7 * headmap.samples], -1),
            np.stack([headmap.scale, 3 * headmap.scale], -1),
            dims=dims,
            coords=coords,
            provenance=headmap.provenance,
        )
        for headmap in (first, second)
    ]
    found, alone = difference(*both), difference(first, second)
    np.testing.assert_allclose(found.sel(metric="prob").ci().low, alone.ci().low, atol=1e-5)
    np.testing.assert_allclose(found.sel(metric="kl").ci().low, alone.ci().low * 7 / 3, atol=1e-5)


@pytest.mark.parametrize(("clusters", "units"), [(("one",) * 6, 6), (tuple("aabbcc"), 3)])
def test_prompts_of_one_template_stay_apart_beside_others(clusters, units):
    draw = np.random.default_rng(2)
    one = map_of(draw.normal(size=(6, 2, 2)), clusters=clusters)
    other = map_of(draw.normal(size=(5, 2, 2)), clusters=tuple("abcde"))
    found = difference(one, other)
    assert len(set(found.clusters)) == units + 5
    assert len(found.samples) == 11 and (found.ci().low < found.ci().high).all()


def test_without_samples_there_is_a_difference_and_no_interval():
    first, second = pair()
    bare = replace(second, samples=None)
    for found in (difference(first, bare), difference(bare, first), difference(first, map_of(first.samples[:1]))):
        assert found.samples is None and np.isfinite(found.values).all()
    assert np.array_equal(difference(bare, first).values, second.values - first.values)


def test_it_says_what_it_was_made_from(tmp_path):
    first, second = pair()
    found = difference(first, replace(second, name="attribution", units="logits"))
    assert found.name == "patching effect minus attribution" and found.units == "fraction, minus logits"
    assert found.provenance == {"task_hash": "p", "model": "m", "first": {"effect": 1.0}, "second": {"effect": 0.6}}
    assert difference(first, second).units == "fraction" and "first map than in the second" in found.sign
    found.save(tmp_path / "difference.safetensors")
    assert np.array_equal(HeadMap.load(tmp_path / "difference.safetensors").ci().low, found.ci().low)


def test_the_same_prompts_are_known_by_hash_and_clusters():
    first, second = pair()
    assert same_prompts(first, second)
    assert not same_prompts(first, replace(second, clusters=TEMPLATES[::-1]))
    assert not same_prompts(replace(first, provenance={}), replace(second, provenance={}))
    assert not same_prompts(first, replace(second, samples=None))
