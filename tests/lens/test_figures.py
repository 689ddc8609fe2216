"""Head maps as plotly figures: the right numbers at the right place, and a scale that does not mislead."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.figures import figure


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
    return figure(headmap)


def trace(drawn) -> Any:
    """The one thing that the figure draws."""
    (only,) = drawn.data
    return only


def test_the_figure_shows_the_map_as_it_is(headmap):
    drawn = draw(headmap)
    assert np.array_equal(np.asarray(trace(drawn).z), headmap.values, equal_nan=True)
    assert drawn.layout.yaxis.autorange == "reversed"
    assert (drawn.layout.xaxis.title.text, drawn.layout.yaxis.title.text) == ("head", "layer")
    assert trace(drawn).colorbar.title.text == "nats"
    assert "grey: missing" in drawn.layout.title.text and trace(drawn).hoverongaps is False


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
    drawn = trace(draw(positions))
    assert drawn.z[0][0] == -3 and drawn.text[0][0] == "L0H0@2: \N{MINUS SIGN}3.00"
    assert np.isnan(drawn.z[1][4])
    assert "the position of its largest magnitude" in draw(positions).layout.title.text


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
    assert trace(draw(swapped)).text[2][3] == trace(draw(headmap)).text[2][3]


def test_names_are_not_taken_for_markup(headmap):
    drawn = draw(replace(headmap, name="<b>effect</b>", units="<i>nats</i>"))
    assert "&lt;b&gt;" in drawn.layout.title.text and "<i>" not in trace(drawn).colorbar.title.text


def test_the_axes_carry_the_names_of_the_entries(headmap):
    axis = draw(headmap.sel(layer=[0, 2])).layout.yaxis
    assert list(axis.ticktext) == ["0", "2"] and list(axis.tickvals) == [0, 1]


def test_many_heads_get_fewer_labels():
    wide = HeadMap(values=np.zeros((2, 100)), dims=("layer", "head"), name="n", units="u", sign="s")
    assert list(draw(wide).layout.xaxis.ticktext)[:3] == ["0", "4", "8"]
    assert trace(draw(wide)).zmax == 1


def test_tokens_stand_under_positions_and_are_named_on_hover():
    tokens = [["When", 1.0], ["<i>", 0.125], ["to", 0.5]]
    values = np.arange(6).reshape(2, 3) / 10
    names = {"name": "n", "units": "u", "sign": "s", "provenance": {"tokens": tokens}}
    drawn = draw(HeadMap(values=values, dims=("layer", "pos"), **names))
    assert list(drawn.layout.xaxis.ticktext) == ["When 0", "&lt;i&gt;… 1", "to… 2"]
    assert drawn.layout.xaxis.tickangle == -90 and drawn.layout.xaxis.title.text == "position"
    assert trace(drawn).text[1][1] == "L1@1 “&lt;i&gt;…” (in 12% of prompts): 0.40"
    assert trace(drawn).text[1][0] == "L1@0 “When”: 0.30"


def test_bars_carry_their_intervals():
    samples = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32) + [-1, 0, 1, 2]
    samples[:, 1] = np.nan
    headmap = HeadMap.from_samples(samples, dims=("layer",), name="n", units="nats", sign="s")
    drawn = draw(headmap)
    bars, interval = trace(drawn), headmap.ci()
    assert np.array_equal(np.asarray(bars.x), headmap.values, equal_nan=True) and list(bars.y) == [0, 1, 2, 3]
    assert np.allclose(bars.x + bars.error_x.array, interval.high, equal_nan=True)
    assert np.allclose(bars.x - bars.error_x.arrayminus, interval.low, equal_nan=True)
    assert bars.marker.color[0] != bars.marker.color[2] == bars.marker.color[3]
    assert drawn.layout.xaxis.title.text == "nats" and "missing: no bar" in drawn.layout.title.text


def test_pairs_of_positions_show_the_strongest_with_its_interval():
    samples = np.random.default_rng(0).normal(size=(7, 2, 3, 4, 4)).astype(np.float32) / 100
    samples[:, 1, 2, 3, 1] -= 0.5
    headmap = HeadMap.from_samples(samples, dims=("layer", "head", "query", "key"), name="n", units="u", sign="s")
    drawn = draw(headmap)
    low, high = headmap.ci().low[1, 2, 3, 1], headmap.ci().high[1, 2, 3, 1]
    value = headmap.values[1, 2, 3, 1]
    said = f"L1H2 q3 k1: {value:.2f} [{low:.2f}, {high:.2f}]".replace("-", "\N{MINUS SIGN}")
    assert trace(drawn).z[1][2] == value and trace(drawn).text[1][2] == said
    assert "the query and key of its largest magnitude" in drawn.layout.title.text
    one = draw(headmap.sel(layer=1, head=2))
    assert np.array_equal(np.asarray(trace(one).z), headmap.values[1, 2])
    assert (one.layout.yaxis.title.text, one.layout.xaxis.title.text) == ("query", "key")


def test_a_menu_chooses_the_metric():
    values = np.stack([np.eye(3), 5 * np.ones((3, 3))], -1)
    names = {"coords": {"metric": ("logit_diff", "probability")}, "name": "n", "units": "u", "sign": "s"}
    drawn = draw(HeadMap(values=values, dims=("layer", "head", "metric"), **names))
    assert [each.visible for each in drawn.data] == [True, False]
    assert np.array_equal(drawn.data[1].z, values[..., 1]) and [each.zmax for each in drawn.data] == [1, 5]
    (menu,) = drawn.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["logit_diff", "probability"]
    assert list(menu.buttons[1].args) == [{"visible": [False, True]}, {"title.text": "n: probability"}]
    assert drawn.layout.title.text == "n: logit_diff"
