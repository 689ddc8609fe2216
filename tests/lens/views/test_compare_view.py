"""CompareView without a browser: a trait is set, and what it should bring about is there."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import traitlets

from headlens.analyses.circuits.overlap import overlap
from headlens.analyses.headmap import HeadMap
from headlens.javascript import module
from headlens.views.compare_view import CompareView


def made(seed, shape=(7, 5)):
    samples = np.random.default_rng(seed).normal(size=(12, *shape)).astype(np.float32)
    return HeadMap.from_samples(samples, dims=("layer", "head"), name="effect", units="u", sign="s")


@pytest.fixture
def view():
    return CompareView(made(0), made(1), names=("a", "b"))


def test_top_says_what_is_shared(view):
    for top in (10, 3):
        view.top = top
        counted = overlap(made(0), made(1), top)
        shared, first, second = view.on_top
        assert {*shared} == {*counted.shared} and {*first} == {*counted.first_only}
        assert len(second) == top - len(shared) and view.described().startswith(counted.described())
        assert counted.described() in view.fallback()
    assert view.comparison.k == 10


def test_one_cell_is_selected_in_both(view):
    values = view.compared.maps[0].values
    assert view.selected == [*np.unravel_index(np.abs(values).argmax(), values.shape)]
    view.selected = [4, 2]
    assert view.label() == "L4H2"
    view.selected = None
    assert view.label() is None


def test_what_is_not_there_is_refused(view):
    with pytest.raises(ValueError, match="top=36 was given; expected 1 to 35"):
        view.top = 36
    with pytest.raises(ValueError, match=r"selected=\[7, 0\] was given"):
        view.selected = [7, 0]
    with pytest.raises(traitlets.TraitError):
        view.by = "name"
    assert view.top == 10 and view.by == "magnitude"
    with pytest.raises(ValueError, match="different dims"):
        CompareView(made(0), HeadMap(values=np.ones(7), dims=("layer",), name="n", units="u", sign="s"))


def test_small_maps_have_fewer_on_top():
    view = CompareView(made(0, (2, 2)), made(1, (2, 2)))
    assert view.top == 4 and len(view.data["overlaps"]) == 4


def test_the_fallback_is_a_picture(view):
    assert ElementTree.fromstring(view.fallback()).tag.endswith("svg")
    large = CompareView(made(0, (40, 32)), made(1, (40, 32)))
    assert len(large.fallback()) < 200_000 and len(large.numbers) == 4 * 2 * 3 * 40 * 32


def test_a_saved_page_is_complete_and_the_same_each_time(view, tmp_path):
    path = view.save(tmp_path / "maps.html")
    page = path.read_text()
    assert page == view.html() and module("compare.js") in page and path.stat().st_size < 120_000
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", page.replace("http://www.w3.org/2000/svg", ""))
    (table,) = re.findall("<noscript>(.*?)</table>", page, re.DOTALL)
    shared, first, second = view.on_top
    assert table.count("<tr><td>") == len(shared) + len(first) + len(second)
    assert all(f"<td>{label}, both</td>" in table for label in shared)


def test_hostile_names_are_inert_on_the_page():
    hostile = "</script><img src=x onerror=alert(1)>"
    told = [replace(made(seed), units=hostile, sign=hostile, provenance={"k": hostile}) for seed in (0, 1)]
    assert "<img" not in CompareView(*told, names=(hostile, f"{hostile}2")).html()


def test_a_notebook_that_is_only_read_shows_the_picture(view):
    bundle = view._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["image/svg+xml"] == view.fallback()
    assert len(view._esm.encode()) + len(view._css.encode()) < 60_000
