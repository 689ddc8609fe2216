"""How maps are laid out: which dims span the picture, where each cell is strongest, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.pictures import interval_of, pictures

SIZES = {"layer": 3, "head": 2, "pos": 4, "query": 4, "key": 5, "task": 2, "metric": 2}


def a_map(*dims, prompts=6):
    samples = np.random.default_rng(0).normal(size=(prompts, *(SIZES[dim] for dim in dims))).astype(np.float32)
    return HeadMap.from_samples(samples, dims=dims, name="n", units="u", sign="s")


@pytest.mark.parametrize(
    ("dims", "outer", "inner"),
    [
        ("layer", "layer", ""),
        ("layer head", "layer head", ""),
        ("head layer", "layer head", ""),
        ("layer pos", "layer pos", ""),
        ("pos layer", "layer pos", ""),
        ("layer head pos", "layer head", "pos"),
        ("key layer head query", "layer head", "query key"),
        ("head", "head", ""),
        ("head pos", "head pos", ""),
        ("query key", "query key", ""),
        ("head query key", "head", "query key"),
        ("pos", "pos", ""),
    ],
)
def test_which_dims_span_the_picture(dims, outer, inner):
    headmap = a_map(*dims.split())
    (picture,) = pictures(headmap).values()
    assert (picture.outer, picture.inner) == (tuple(outer.split()), tuple(inner.split()))
    order = (*picture.outer, *picture.inner)
    assert picture.headmap.dims == order
    for cell in np.ndindex(picture.headmap.values.shape):
        where = dict(zip(order, cell, strict=True))
        assert picture.headmap.values[cell] == headmap.sel(**where).values
        assert np.array_equal(picture.headmap.samples[(slice(None), *cell)], headmap.sel(**where).samples)


def test_each_cell_is_at_its_largest_magnitude():
    headmap = a_map("layer", "head", "query", "key")
    values = headmap.values.copy()
    values[1, 1] = np.nan
    values[2, 0, 3, 1] = -9
    (picture,) = pictures(replace(headmap, values=values)).values()
    for layer, head in np.ndindex(3, 2):
        ranked = sorted(
            ((q, k) for q, k in np.ndindex(4, 5) if values[layer, head, q, k] == values[layer, head, q, k]),
            key=lambda pair: -abs(values[layer, head][pair]),
        )
        query, key = ranked[0] if ranked else (0, 0)
        at = np.unravel_index(picture.peaks[layer * 2 + head], values.shape)
        assert at == (layer, head, query, key)
        found = picture.at_peaks.values[layer, head]
        assert found == values[at] or (np.isnan(found) and (layer, head) == (1, 1))
    assert picture.at_peaks.values[2, 0] == -9


def test_the_interval_at_the_peaks_is_that_of_the_map():
    (picture,) = pictures(a_map("layer", "head", "pos")).values()
    whole, part = picture.headmap.ci(), interval_of(picture.at_peaks)
    assert np.allclose(part.low.reshape(-1), whole.low.reshape(-1)[picture.peaks], atol=1e-6)
    assert np.allclose(part.high.reshape(-1), whole.high.reshape(-1)[picture.peaks], atol=1e-6)


def test_there_is_no_interval_of_one_prompt():
    assert interval_of(a_map("layer", prompts=1)) is None
    assert interval_of(replace(a_map("layer"), samples=None)) is None


def test_a_picture_a_metric():
    headmap = replace(a_map("layer", "head", "metric"), coords={"metric": ("logit_diff", "probability")})
    found = pictures(headmap)
    assert list(found) == ["logit_diff", "probability"]
    assert np.array_equal(found["probability"].headmap.values, headmap.values[..., 1])


@pytest.mark.parametrize(
    ("dims", "shape", "says"),
    [
        (("task", "layer", "head"), (2, 3, 5), r"such as \.sel\(task=0\)"),
        (("layer", "pos", "query", "key"), (2, 3, 4, 4), r"such as \.sel\(pos=0\)"),
        ((), (), "This map has no dims"),
        (("metric",), (2,), "This map has no dims"),
        (("layer", "head"), (0, 5), "This map has layer 0, head 5"),
        (("layer", "metric"), (2, 0), "dims layer, metric"),
    ],
)
def test_other_dims_are_refused(dims, shape, says):
    with pytest.raises(ValueError, match=says):
        pictures(HeadMap(values=np.zeros(shape), dims=dims, name="n", units="u", sign="s"))
