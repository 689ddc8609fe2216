"""Head maps as plotly figures: the right numbers at the right place, and a scale that does not mislead."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import headlens
from headlens.analyses.headmap import HeadMap
from headlens.figures import decimals, grid, heatmap, reach, shown


@pytest.fixture
def headmap():
    """A map of 3 layers and 5 heads from 7 prompts, with a cell that is missing; the largest is negative."""
    samples = np.random.default_rng(1).normal(size=(7, 3, 5)).astype(np.float32) / 10
    samples[:, 1, 4] = np.nan
    samples[:, 2, 3] -= 0.44
    return HeadMap.from_samples(samples, dims=("layer", "head"), name="effect", units="nats", sign="Positive restores.")


@pytest.fixture
def positions(headmap):
    """The same with 4 positions, of which head L0H0 is largest at position 2."""
    values = np.repeat(headmap.values[..., None], 4, -1) * 0.1
    values[0, 0, 2] = -3
    return HeadMap(values=values, dims=("layer", "head", "pos"), name="effect", units="nats", sign="Positive restores.")


def draw(headmap) -> Any:
    """The figure of a map; what plotly's types say of a figure leaves most of it out."""
    return heatmap(headmap)


def trace(figure) -> Any:
    """The one thing that the figure draws."""
    (only,) = figure.data
    return only


def test_the_figure_shows_the_map_as_it_is(headmap):
    figure = draw(headmap)
    drawn = trace(figure)
    assert np.array_equal(np.asarray(drawn.z), headmap.values, equal_nan=True)
    assert figure.layout.yaxis.autorange == "reversed"
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")
    assert drawn.colorbar.title.text == "nats"
    assert "grey: missing" in figure.layout.title.text and drawn.hoverongaps is False


def test_the_scale_is_symmetric(headmap):
    drawn = trace(draw(headmap))
    assert drawn.zmax == -drawn.zmin == pytest.approx(np.nanmax(np.abs(headmap.values)))
    lightness = [sum(int(colour[at : at + 2], 16) for at in (1, 3, 5)) for _, colour in drawn.colorscale]
    assert max(lightness) == lightness[2] and lightness == sorted(lightness[:3]) + sorted(lightness[3:], reverse=True)


def test_hovering_says_the_value_and_its_interval(headmap):
    text = trace(draw(headmap)).text
    row = headmap.to_frame().set_index("label").loc["L2H3"]
    expected = f"L2H3: {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]".replace("-", "\N{MINUS SIGN}")
    assert text[2][3] == expected and text[1][4] == ""


def test_a_map_with_positions_shows_the_largest_and_says_so(positions):
    figure = draw(positions)
    drawn = trace(figure)
    assert drawn.z[0][0] == -3 and drawn.text[0][0] == "L0H0@2: \N{MINUS SIGN}3.00"
    assert np.isnan(drawn.z[1][4])
    assert "the position of its largest magnitude" in figure.layout.title.text


def test_the_order_of_the_dims_does_not_matter(headmap, positions):
    turned = replace(
        positions,
        values=positions.values.transpose(2, 1, 0),
        dims=("pos", "head", "layer"),
    )
    assert np.array_equal(np.asarray(trace(draw(turned)).z), np.asarray(trace(draw(positions)).z), equal_nan=True)
    swapped = replace(
        headmap, values=headmap.values.T, samples=headmap.samples.transpose(0, 2, 1), dims=("head", "layer")
    )
    assert np.array_equal(np.array(grid(swapped).samples), headmap.samples, equal_nan=True)
    assert trace(draw(swapped)).text[2][3] == trace(draw(headmap)).text[2][3]


def test_names_are_not_taken_for_markup(headmap):
    figure = draw(replace(headmap, name="<b>effect</b>", units="<i>nats</i>"))
    assert "&lt;b&gt;" in figure.layout.title.text and "<i>" not in trace(figure).colorbar.title.text


def test_the_axes_carry_the_names_of_the_entries(headmap):
    figure = draw(headmap.sel(layer=[0, 2]))
    assert list(figure.layout.yaxis.ticktext) == ["0", "2"] and list(figure.layout.yaxis.tickvals) == [0, 1]


def test_many_heads_get_fewer_labels():
    wide = HeadMap(values=np.zeros((2, 100)), dims=("layer", "head"), name="n", units="u", sign="s")
    assert list(draw(wide).layout.xaxis.ticktext)[:3] == ["0", "4", "8"]
    assert trace(draw(wide)).zmax == 1


def test_view_shows_a_map(headmap):
    assert np.array_equal(np.asarray(trace(headlens.view(headmap)).z), headmap.values, equal_nan=True)


@pytest.mark.parametrize("given", [np.zeros((3, 5)), None, "map"])
def test_view_refuses_other_things(given):
    with pytest.raises(ValueError, match=f"A {type(given).__name__} was given; view.. shows a HeadMap"):
        headlens.view(given)


@pytest.mark.parametrize(
    ("dims", "shape", "says"),
    [
        (("task", "layer", "head"), (2, 3, 5), r"such as \.sel\(task=0\)"),
        (("layer", "head", "query", "key"), (2, 3, 4, 4), r"such as \.sel\(query=0\)"),
        (("layer",), (3,), "This map has layer 3; a picture needs layer"),
        ((), (), "This map has no dims"),
        (("layer", "head"), (0, 5), "This map has layer 0, head 5"),
    ],
)
def test_other_dims_are_refused(dims, shape, says):
    with pytest.raises(ValueError, match=says):
        draw(HeadMap(values=np.zeros(shape), dims=dims, name="n", units="u", sign="s"))


@pytest.mark.parametrize(
    ("bound", "number", "text"),
    [
        (0.44, 0.4449, "0.44"),
        (0.44, -0.001, "0.00"),
        (4.4, -1.0, "\N{MINUS SIGN}1.00"),
        (44.0, 4.44, "4.4"),
        (444.0, 44.4, "44"),
        (0.044, 0.0123, "0.012"),
        (4e-7, 1.234e-7, "1.23e\N{MINUS SIGN}07"),
        (4e-7, 0.0, "0"),
        (1.0, np.nan, "missing"),
    ],
)
def test_numbers_are_shown_to_the_precision_of_the_map(bound, number, text):
    assert shown(number, decimals(bound)) == text


def test_the_reach_of_an_empty_map_is_one():
    missing = HeadMap(values=np.full((2, 2), np.nan), dims=("layer", "head"), name="n", units="u", sign="s")
    assert reach(missing) == 1
