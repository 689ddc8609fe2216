"""Sink dimensions are found where they are planted at the first token, at a share of its length and nowhere else."""

import numpy as np
import pytest

from headlens.analyses.massive import massive
from headlens.analyses.vision.redistribution.sink_dimensions import sink_dimensions, sink_threshold
from headlens.analyses.vision.samples import Samples
from headlens.hooks.edits import Call
from headlens.hooks.groups import Massive
from tiny_models import held
from tiny_samples import planted, samples


@pytest.mark.parametrize(("width", "expected"), [(4096, 20.0), (128, 3.5355339), (256, 5.0), (784, 8.75)])
def test_the_threshold_scales_with_width(width, expected):
    assert sink_threshold(width) == pytest.approx(expected)
    # the same share of the vector's squared length at every width
    assert sink_threshold(width) ** 2 / width == pytest.approx(400 / 4096)


def test_planted_dimensions_are_found_the_largest_first():
    model, some = held("llava"), samples(3, start=(2,))
    with model.edited(planted([0], 5, 300.0), planted([0], 21, -400.0), planted([6], 9, 900.0)):
        found = sink_dimensions(model, some)
    assert found.dims == (21, 5) and found.above == sink_threshold(32)
    assert found.group() == Massive((21, 5), sink_threshold(32))
    assert np.isnan(found.sizes[:2]).all() and found.sizes[2, 21] == pytest.approx(4.5, abs=0.1)
    assert "first token in root mean squares: 21 (4.5), 5 (3.4)" in found.described()


def test_a_dimension_is_found_at_its_share_of_the_length():
    model, some, dim = held("llava"), samples(1, start=(2,)), 5
    site = "blocks.1.hook_resid_pre"
    first = model.record(some.inputs[0], names_filter=site)[1][site][0, 0].detach().double().numpy()
    rest = (np.delete(first, dim) ** 2).sum()
    # c^2 / (c^2 + rest) = 400 / 4096
    flips = np.sqrt(rest * 400 / 3696)
    for value, there in ((0.995 * flips, False), (1.005 * flips, True), (-1.005 * flips, True)):
        with model.edited(planted([0], dim, value - first[dim])):
            found = sink_dimensions(model, some, layers=[1])
        assert (dim in found.dims) == there


@pytest.mark.real
def test_the_real_model_has_the_one_dimension_that_is_massive(smollm2):
    ids = smollm2.to_tokens("The quick brown fox jumps over the lazy dog and runs away.\n")
    found = sink_dimensions(smollm2, Samples("text", ({"input_ids": ids},)))
    assert found.dims == massive(smollm2, ids).dims == (507,)


def test_one_sample_is_run_for_each_first_token():
    model, some, starts = held("llava"), samples(4, start=(2,)), []
    others = samples(1, start=(7,))
    both = type(some)("both", some.inputs + others.inputs)

    def note(resid, hook):
        starts.append(tuple(resid.shape))

    with model.edited(planted([0], 5, 300.0), Call("blocks.0.hook_resid_pre", note)):
        assert sink_dimensions(model, both).dims == (5,)
    assert len(starts) == 2


def test_without_any_it_says_how_large_the_largest_is():
    found = sink_dimensions(held("llava"), samples(1), above=5.0)
    assert found.dims == ()
    with pytest.raises(ValueError, match=r"No residual dimension .* above 5.00 .*is largest, .*no sinks of this kind"):
        found.group()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"above": 0.0}, "above=0.0"), ({"layers": [3]}, r"layers=\[3\]"), ({"layers": []}, "one or more of 0..2")],
    ids=["above", "layer", "none"],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        sink_dimensions(held("llava"), samples(1), **given)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="there are no samples"):
        sink_dimensions(held("llava"), samples(2).subset([]))
