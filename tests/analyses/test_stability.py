"""How often a cell is on top: a plain loop over resamples, planted cells, and what is refused."""

import numpy as np
import pytest

from headlens.analyses import uncertainty
from headlens.analyses.headmap import HeadMap
from headlens.analyses.stability import stability

ABOUT = {"name": "effect", "units": "logits", "sign": "Positive means: carries the clean behaviour."}


def map_of(samples, **fields):
    return HeadMap.from_samples(samples.astype(np.float32), dims=("layer", "head"), **ABOUT, **fields)


def by_loop(headmap, k, resamples, seed):
    """Sort the cells of one resample at a time."""
    names = sorted(set(headmap.clusters))
    drawn = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), size=resamples)
    times = np.zeros(headmap.values.shape)
    for counts in drawn:
        prompts = [
            prompt
            for name, count in zip(names, counts, strict=True)
            for prompt in range(len(headmap.clusters))
            if headmap.clusters[prompt] == name
            for _ in range(count)
        ]
        sizes = {}
        for cell in np.ndindex(headmap.values.shape):
            own = [p for p in prompts if not np.isnan(headmap.samples[(p, *cell)])]
            if own:
                above = sum(float(headmap.samples[(p, *cell)]) for p in own)
                sizes[cell] = abs(above / sum(float(headmap.scale[p]) for p in own))
        for cell in sorted(sizes, key=lambda cell: -sizes[cell])[:k]:
            times[cell] += 1
    return times / resamples


@pytest.mark.parametrize("at_once", [8 * 6 * 9, 10**9])
def test_shares_equal_a_plain_loop(monkeypatch, at_once):
    monkeypatch.setattr(uncertainty, "_AT_ONCE_BYTES", at_once)
    draw = np.random.default_rng(0)
    samples = draw.normal(0.3, 1, size=(11, 3, 2))
    samples[2:5, 1, 1] = np.nan
    headmap = map_of(samples, scale=draw.uniform(1, 2, 11).astype(np.float32), clusters=tuple("abcdabcdabc"))
    found = stability(headmap, 2, resamples=60, seed=4)
    np.testing.assert_allclose(found.values, by_loop(headmap, 2, 60, 4), atol=1e-6)
    assert found.values.sum() == pytest.approx(2)


def test_a_strong_cell_is_always_there_and_an_edge_is_open():
    draw = np.random.default_rng(1)
    samples = draw.normal(size=(20, 4, 3))
    samples[:, 1, 2] += 9
    samples[:, 2, 0] -= 6
    samples[:, 3, 1] = np.nan
    found = map_of(samples, provenance={"model": "m"}).stability(3)
    assert found.values[1, 2] == found.values[2, 0] == 1 and np.isnan(found.values[3, 1])
    others = np.delete(found.values.reshape(-1), [5, 6, 10])
    assert (others < 1).all() and others.sum() == pytest.approx(1, abs=1e-5)
    assert found.units == "share of resamples" and found.samples is None and found.dims == ("layer", "head")
    assert found.provenance == {"model": "m", "stability": {"k": 3, "resamples": 2000, "seed": 0}}


def test_with_k_cells_or_fewer_all_are_on_top():
    samples = np.random.default_rng(2).normal(size=(5, 2, 2))
    samples[:, 0, 0] = np.nan
    assert np.array_equal(map_of(samples).stability(3).values, [[np.nan, 1], [1, 1]], equal_nan=True)


@pytest.mark.parametrize(
    ("headmap", "k", "sentence"),
    [
        (HeadMap(values=np.zeros(2), dims=("head",), **ABOUT), 1, "keeps no samples"),
        (map_of(np.ones((1, 2, 2))), 1, "at least 2 prompts"),
        (map_of(np.ones((3, 2, 2))), 0, "k=0 was given"),
    ],
)
def test_what_has_no_stability_is_refused(headmap, k, sentence):
    with pytest.raises(ValueError, match=sentence):
        stability(headmap, k)
