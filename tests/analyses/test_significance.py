"""Sign-flip p-values against scipy's permutation test and a plain loop; false discoveries against scipy's control."""

import itertools

import numpy as np
import pytest
from scipy import stats

from headlens.analyses import significance
from headlens.analyses.headmap import HeadMap
from headlens.analyses.significance import benjamini_hochberg, sign_flip_p_values, significant, smallest_p

ABOUT = {"name": "effect", "units": "logits", "sign": "Positive means: carries the clean behaviour."}


def map_of(samples, clusters=(), scale=None):
    dims = ("layer", "head")[-(samples.ndim - 1) :]
    return HeadMap.from_samples(samples.astype(np.float32), scale, dims=dims, clusters=tuple(clusters), **ABOUT)


def by_loop(samples, clusters):
    """Every flip of the templates, one at a time, by the mean over prompts."""
    names, p = sorted(set(clusters)), np.full(samples.shape[1:], np.nan)
    for cell in np.ndindex(p.shape):
        own = [(name, value) for name, value in zip(clusters, samples[(slice(None), *cell)], strict=True)]
        own = [(name, float(np.float32(value))) for name, value in own if not np.isnan(value)]
        if not own:
            continue
        observed, as_far = abs(np.mean([value for _, value in own])), []
        for signs in itertools.product((-1, 1), repeat=len(names)):
            flip = dict(zip(names, signs, strict=True))
            as_far.append(abs(np.mean([flip[name] * value for name, value in own])) >= observed - 1e-9)
        p[cell] = np.mean(as_far)
    return p


def test_templates_flip_together_and_missing_prompts_are_left_out():
    draw = np.random.default_rng(0)
    samples = draw.normal(0.4, 1, size=(13, 2, 3))
    samples[draw.random(samples.shape) < 0.2] = np.nan
    samples[:, 1, 1] = np.nan
    clusters = list("aabcdebedcacb")
    # a template that one cell lacks altogether
    samples[[0, 1, 10], 0, 0] = np.nan
    found = sign_flip_p_values(map_of(samples, clusters))
    np.testing.assert_allclose(found, by_loop(samples, clusters), rtol=1e-12)
    assert np.isnan(found[1, 1]) and found.dtype == np.float64


@pytest.mark.parametrize("clusters", [["same"] * 9, []], ids=["one template", "each its own"])
def test_prompts_flip_singly_as_in_scipy(clusters):
    samples = np.random.default_rng(1).normal(0.5, 1, size=(9, 4)).astype(np.float32)
    found = sign_flip_p_values(map_of(samples, clusters))
    for head, p in enumerate(found):
        # scipy flips one sample about 0; all 2^9 flips are tried
        known = stats.permutation_test(
            (samples[:, head].astype(np.float64),),
            np.mean,
            permutation_type="samples",
            n_resamples=np.inf,
            alternative="two-sided",
        )
        assert p == pytest.approx(known.pvalue, abs=1e-12)


def test_the_scale_moves_no_p():
    samples = np.random.default_rng(2).normal(0.5, 1, size=(8, 3))
    scaled = map_of(samples, scale=np.linspace(1, 5, 8, dtype=np.float32))
    assert np.array_equal(sign_flip_p_values(map_of(samples)), sign_flip_p_values(scaled))


@pytest.mark.parametrize("at_once", [8 * 4000, 10**9])
def test_random_flips_agree_with_all_of_them(monkeypatch, at_once):
    samples = np.random.default_rng(3).normal(0.3, 1, size=(12, 5))
    exact = sign_flip_p_values(map_of(samples))
    monkeypatch.setattr(significance, "EXACT_UP_TO", 11)
    monkeypatch.setattr(significance, "_AT_ONCE_BYTES", at_once)
    drawn = sign_flip_p_values(map_of(samples), flips=4000)
    # five standard errors of a share of 4000
    np.testing.assert_allclose(drawn, exact, atol=5 * np.sqrt(0.25 / 4000))
    assert np.array_equal(drawn, sign_flip_p_values(map_of(samples), flips=4000))
    assert not np.array_equal(drawn, sign_flip_p_values(map_of(samples), flips=4000, seed=1))
    counts = drawn * 4001 - 1
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-8)


def test_the_smallest_p_is_what_a_perfect_effect_has():
    perfect = np.ones((16, 1))
    templates = [str(row // 2) for row in range(16)]
    assert sign_flip_p_values(map_of(perfect, templates)).item() == 2 / 2**8 == smallest_p(map_of(perfect, templates))
    # of 16 prompts, flips are drawn: none of 500 leaves every sign alone, or turns every one
    assert sign_flip_p_values(map_of(perfect), flips=500).item() == 1 / 501 == smallest_p(map_of(perfect), 500)
    assert sign_flip_p_values(map_of(np.zeros((5, 1)))).item() == 1


def test_under_no_effect_p_is_about_uniform():
    draw = np.random.default_rng(4)
    # alike prompts: a test that flips them singly would find far too much
    samples = np.repeat(draw.normal(size=(10, 600)), 4, axis=0) + draw.normal(0, 0.1, size=(40, 600))
    clustered = sign_flip_p_values(map_of(samples, [str(row // 4) for row in range(40)]))
    for share in (0.05, 0.2, 0.5, 0.9):
        assert np.mean(clustered <= share) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 600))
    assert np.mean(sign_flip_p_values(map_of(samples), flips=999) <= 0.05) > 0.2


def test_false_discoveries_are_controlled_as_in_scipy():
    p = np.random.default_rng(5).uniform(size=(4, 7)) ** 3
    p[0, :3] = p[2, 2]
    known = stats.false_discovery_control(p.reshape(-1)).reshape(p.shape)
    np.testing.assert_allclose(benjamini_hochberg(p), known, rtol=1e-12)
    with_missing = np.concatenate([p, np.full((1, 7), np.nan)])
    found = benjamini_hochberg(with_missing)
    np.testing.assert_allclose(found[:4], known, rtol=1e-12)
    assert np.isnan(found[4]).all() and benjamini_hochberg(np.full(3, np.nan)).shape == (3,)
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg(np.array([0.1, 1.1]))


def test_planted_effects_are_found_and_few_others():
    draw = np.random.default_rng(6)
    samples = draw.normal(size=(24, 9, 5))
    samples[:, 2, 3] += 2
    samples[:, 7, 0] -= 2
    samples[:, 4, 4] = np.nan
    headmap = map_of(samples)
    found = headmap.significant()
    assert found.dtype == bool and found[2, 3] and found[7, 0] and not found[4, 4] and found.sum() <= 4
    assert np.array_equal(found, significant(headmap, 0.05))
    assert np.array_equal(headmap.p_values(seed=3), sign_flip_p_values(headmap, seed=3), equal_nan=True)
    # at 5% each, two of 44 cells that do nothing are expected, and they are not told from the planted ones
    assert (headmap.p_values() <= 0.05).sum() > found.sum() or found.sum() == 2


def test_few_templates_find_nothing_among_many_cells():
    samples = np.random.default_rng(7).normal(size=(5, 100))
    samples[:, 0] += 100
    headmap = map_of(samples)
    assert sign_flip_p_values(headmap)[0] == smallest_p(headmap) == 0.0625
    assert not headmap.significant(0.5)[0] and not headmap.significant().any()


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: sign_flip_p_values(HeadMap(values=np.zeros(2), dims=("head",), **ABOUT)), "keeps no samples"),
        (lambda: sign_flip_p_values(map_of(np.ones((1, 2)))), "at least 2 prompts; this map was made from 1"),
        (lambda: sign_flip_p_values(map_of(np.ones((4, 2))), flips=0), "flips=0"),
        (lambda: map_of(np.ones((4, 2))).significant(5.0), "q=5.0 was given"),
    ],
)
def test_what_has_no_p_is_refused(ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask()
