"""Two maps beside each other: matched by coords, ranked by both rules, marked, and held against chance."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from headlens.analyses.circuits.overlap import overlap
from headlens.analyses.comparison import compare
from headlens.analyses.headmap import HeadMap
from headlens.views.compare_data import MOST, compare_numbers, compare_payload, compared
from headlens.views.compare_svg import compare_svg

SHAPE = (7, 5)
WORDS = {"name": "effect", "units": "u", "sign": "s"}


def made(seed, task="ioi", units="u", dims=("layer", "head"), **coords):
    samples = np.random.default_rng(seed).normal(size=(12, *SHAPE))
    fields = {**WORDS, "units": units, "dims": dims, "coords": coords, "provenance": {"task": task}}
    return HeadMap.from_samples(samples.astype(np.float32), **fields)


@pytest.fixture
def pair():
    """Two maps of which each lacks one cell."""
    first, second = made(0), made(1, task="greater-than")
    lacking = [each.values.copy() for each in (first, second)]
    lacking[0][2, 3], lacking[1][4, 0] = np.nan, np.nan
    return tuple(replace(each, values=values) for each, values in zip((first, second), lacking, strict=True))


def test_ranks_go_by_magnitude_and_by_value(pair):
    found = compared(*pair)
    flat = [each.values.reshape(-1).astype(float) for each in pair]
    both = [at for at in range(35) if not np.isnan(flat[0][at] + flat[1][at])]
    assert len(both) == 33 and sorted(np.flatnonzero(found.ranks[0, 0])) == both
    for map_at, values in enumerate(flat):
        for at in both:
            assert found.ranks[0, map_at, at] == 1 + sum(abs(values[other]) > abs(values[at]) for other in both)
            assert found.ranks[1, map_at, at] == 1 + sum(values[other] > values[at] for other in both)


@pytest.mark.parametrize("top", [1, 6, 33])
def test_what_is_on_top_agrees_with_the_analysis(pair, top):
    found, counted = compared(*pair), overlap(*pair, top)
    assert [set(group) for group in found.on_top(top)] == [
        set(counted.shared),
        set(counted.first_only),
        set(counted.second_only),
    ]
    assert found.overlap_in_words(top).startswith(counted.described())


def test_sentences_give_the_correlation_its_interval_and_what_differs(pair):
    comparison = compare(*pair)
    said = compared(*pair).correlation_in_words()
    assert f"over 33 cells {comparison.correlation:+.2f} (95% interval" in said and "the tasks differ" in said
    bare = compared(*(replace(each, samples=None, scale=None, clusters=()) for each in pair))
    assert "no interval" in bare.correlation_in_words()


def test_maps_are_matched_by_their_coords():
    first, second = made(0), made(1, layer=[3, 4, 5, 6, 7, 8, 9])
    found = compared(first, second)
    assert found.maps[0].coords["layer"] == (3, 4, 5, 6) == found.maps[1].coords["layer"]
    assert np.array_equal(found.maps[0].values, first.values[3:]) and np.array_equal(
        found.maps[1].values, second.values[:4]
    )
    assert compare_payload(found)["cells"][0] == "L3H0"


def test_equal_units_share_a_scale_and_others_do_not():
    first, second = made(0), made(1)
    small = replace(second, values=second.values / 100)
    one, other = compared(first, small).bounds
    assert one == other == np.abs(first.values).max()
    apart = compared(first, replace(small, units="logits"))
    assert apart.bounds == (np.abs(first.values).max(), np.abs(small.values).max())
    assert not compare_payload(apart)["shared"] and "the units differ" in apart.correlation_in_words()


def test_numbers_are_sent_as_they_are(pair):
    sent = np.frombuffer(compare_numbers(compared(*pair)), "<f4").reshape(2, 3, *SHAPE)
    for at, headmap in enumerate(pair):
        interval = headmap.ci()
        wanted = (headmap.values, interval.low, interval.high)
        assert all(np.allclose(*both, equal_nan=True) for both in zip(sent[at], wanted, strict=True))
    bare = [replace(each, samples=None, scale=None, clusters=()) for each in pair]
    assert np.isnan(np.frombuffer(compare_numbers(compared(*bare)), "<f4").reshape(2, 3, -1)[:, 1:]).all()


def test_names_tell_the_maps_apart():
    assert compared(made(0), made(1, task="greater-than")).names == ("ioi", "greater-than")
    assert compared(made(0), replace(made(1), name="other")).names == ("effect", "other")
    assert compared(made(0), made(1)).names == ("effect (first)", "effect (second)")
    assert compared(made(0), made(1), names=("a", "b")).names == ("a", "b")


def test_maps_of_positions_are_held_against_a_plain_draw():
    dims = ("layer", "pos")
    found = compared(made(0, dims=dims), made(1, dims=dims), top=4)
    again = compare(made(0, dims=dims), made(1, dims=dims), k=4)
    assert f"{again.overlap} of 4 shared (Jaccard {again.jaccard:.2f})" in found.overlap_in_words(4)
    assert len(compare_payload(found)["overlaps"]) == found.most == 35 < MOST


def test_what_spans_no_board_is_refused():
    flat = HeadMap(values=np.ones(7), dims=("layer",), **WORDS)
    with pytest.raises(ValueError, match=r"Maps of \(layer\) were given; two maps beside each other span two dims"):
        compared(flat, flat)
    deep = HeadMap(values=np.ones((2, 2, 2)), dims=("layer", "head", "pos"), **WORDS)
    with pytest.raises(ValueError, match=r"as in \.sel\(pos=9\)"):
        compared(deep, deep)
    with pytest.raises(ValueError, match="different dims"):
        compared(flat, made(0))


def test_the_picture_is_xml_with_a_mark_for_all_on_top(pair):
    svg = "{http://www.w3.org/2000/svg}"
    found = compared(*pair, names=("<a>", "b & c"))
    root = ElementTree.fromstring(compare_svg(found, 5))
    circles = list(root.iter(f"{svg}circle"))
    # two maps of five marks on halos, and the scatter
    assert len(circles) == 2 * 5 * 2 + 33
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert {"<a>", "b & c", "rank in <a>"} <= {*texts} and found.overlap_in_words(5) in texts
    assert [title.text for title in root.iter(f"{svg}title")].count("missing") == 2
    assert compare_svg(found, 5) == compare_svg(found, 5)
