"""MapView: the traits are the state, the numbers are the map's, and a notebook and a page both carry it whole."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import traitlets

from headlens.analyses.difference import difference
from headlens.analyses.headmap import HeadMap
from headlens.javascript import module
from headlens.views.map_view import MapView


def numbers_of(part):
    """The values that the module reads, flat."""
    return np.array([np.nan if n is None else (n + 0.5) * part["step"] for n in part["values"]])


def test_the_widget_carries_the_module_and_the_map(effects):
    view = MapView(effects)
    assert view._esm == module("heatmap.js") and ".headlens-map" in view._css
    (part,) = view.data["parts"]
    assert np.allclose(numbers_of(part), effects.values.reshape(-1), atol=0.51e-4, rtol=0, equal_nan=True)
    assert (view.selected, view.order, view.numbers, view.shape) == (None, "head", b"", (3, 5))
    assert len(view._esm) + len(view._css) < 100_000


def test_selecting_names_the_head_and_refuses_what_is_not_there(effects):
    view = MapView(effects.sel(layer=[0, 2]), selected=[1, 3])
    assert view.label == "L2H3"
    for wrong in ([2, 0], [0, 5], [-1, 0]):
        with pytest.raises(ValueError, match=r"inside \(2, 5\)"):
            view.selected = wrong
    with pytest.raises(traitlets.TraitError):
        view.order = "size"
    assert (view.selected, view.label) == ([1, 3], "L2H3")
    view.selected = None
    assert view.label is None


def test_a_large_map_travels_as_bytes():
    values = np.random.default_rng(0).normal(size=(6, 7, 9, 10)).astype(np.float32)
    values[1, 2, 3, 4] = np.nan
    view = MapView(HeadMap(values=values, dims=("layer", "head", "query", "key"), name="n", units="u", sign="s"))
    sent = np.frombuffer(view.numbers, "<f4").reshape(3, -1)
    assert np.array_equal(sent[0], values.reshape(-1), equal_nan=True) and np.isnan(sent[1:]).all()
    assert view.data["parts"][0]["values"] is None and len(json.dumps(view.data)) < 6000


def test_tasks_are_maps_of_their_own(effects):
    both = np.stack([effects.values, 2 * effects.values], -1)
    named = {"name": "n", "units": "u", "sign": "s", "coords": {"task": ("ioi", "greater-than")}}
    view = MapView(HeadMap(values=both, dims=("layer", "head", "task"), **named))
    assert view.data["by"] == "task" and [part["metric"] for part in view.data["parts"]] == ["ioi", "greater-than"]
    assert np.allclose(numbers_of(view.data["parts"][1]), both[..., 1].reshape(-1), atol=0.51e-3, equal_nan=True)
    assert "2 tasks" in view.about().made


def test_the_difference_of_two_maps_is_a_map(effects):
    other = replace(effects, values=effects.values / 2, samples=effects.samples / 2)
    view = MapView(difference(effects, other))
    (part,) = view.data["parts"]
    assert np.allclose(numbers_of(part), effects.values.reshape(-1) / 2, atol=0.51e-4, equal_nan=True)
    assert part["low"] is not None


@pytest.mark.parametrize("dims", [("layer",), ("layer", "head"), ("layer", "head", "pos"), ("query", "key")])
def test_a_stored_notebook_shows_a_picture(dims):
    values = np.random.default_rng(0).normal(size=(3, 5, 4)[: len(dims)])
    values.flat[1] = np.nan
    view = MapView(HeadMap(values=values, dims=dims, name="<b>&", units="u", sign="s"))
    data = view._repr_mimebundle_()[0]
    assert "application/vnd.jupyter.widget-view+json" in data
    svg = ElementTree.fromstring(data["image/svg+xml"])
    paths = svg.findall(".//{http://www.w3.org/2000/svg}path")
    assert svg.find("{http://www.w3.org/2000/svg}title").text == "<b>&"
    # one box is missing unless positions hide it
    assert sum("dasharray" in ElementTree.tostring(one).decode() for one in paths) == (dims != ("layer", "head", "pos"))


def test_infinite_numbers_are_refused():
    with pytest.raises(ValueError, match="infinite"):
        MapView(HeadMap(values=np.full((2, 2), np.inf), dims=("layer", "head"), name="n", units="u", sign="s"))
