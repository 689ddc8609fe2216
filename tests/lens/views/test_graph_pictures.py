"""The files of a head graph: SVG with a path for every edge, and PNG that shows the same."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from drawn_circuits import drawn_circuit
from headlens.views.graph_data import head_graph
from headlens.views.graph_layout import BOX, lay_out
from headlens.views.graph_png import graph_png
from headlens.views.graph_style import INK, PAPER, bound_of, edge_style, node_fill
from headlens.views.graph_svg import HEAD_ROOM, LEAST, edge_title, graph_svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = 'a <b> & "c" </svg>\x00\x1b'


@pytest.fixture(scope="module")
def drawn():
    """A graph with its layout."""
    graph = head_graph(drawn_circuit(edges=70))
    return graph, lay_out(graph)


def test_every_edge_is_one_path_and_every_node_one_box(drawn):
    graph, layout = drawn
    root = ElementTree.fromstring(graph_svg(graph, layout, range(len(graph.edges)), "title", ["a", "b", "c"]))
    paths = [path for group in root.iter(f"{SVG}g") if group.get("class") == "edges" for path in group]
    assert len(paths) == len(graph.edges)
    for at, path in enumerate(reversed(paths)):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d"))]
        assert numbers == layout.paths[at].tolist()
        assert path.find(f"{SVG}title").text == edge_title(graph, at)
    names = [group.find(f"{SVG}text").text for group in root.iter(f"{SVG}g") if group.find(f"{SVG}rect") is not None]
    assert [name for name in names if name] == [node.name for node in graph.nodes]


def test_only_the_edges_that_are_asked_for_are_drawn(drawn):
    graph, layout = drawn
    text = graph_svg(graph, layout, [0, 3], "title", ["a", "b", "c"])
    assert text.count("<path") == 2 and text == graph_svg(graph, layout, [0, 3], "title", ["a", "b", "c"])


def test_hostile_names_stay_text(drawn):
    graph, layout = drawn
    root = ElementTree.fromstring(graph_svg(graph, layout, [], HOSTILE, [HOSTILE, "b", "c"]))
    assert root.find(f"{SVG}title").text == 'a <b> & "c" </svg>'
    assert {child.tag for child in root.iter()} <= {
        f"{SVG}{tag}" for tag in "svg title desc rect text line g path".split()
    }


def test_words_name_the_edge_its_use_and_its_score(drawn):
    graph, _ = drawn
    said = edge_title(graph, 0)
    assert said.startswith(f"{graph.nodes[graph.edges[0].sender].name} \N{RIGHTWARDS ARROW} ")
    assert re.search(r": \N{MINUS SIGN}?0\.\d+$", said)
    unscored = head_graph(drawn_circuit(edges=70, scored=False))
    assert edge_title(unscored, 0).endswith("no score")


def test_signs_differ_in_colour_and_magnitudes_in_width():
    (up, wide), (down, same), (_, thin) = (edge_style(score, 2.0) for score in (2.0, -2.0, 0.2))
    assert up != down and wide == same == 5.0 and 1.0 < thin < 2.0
    assert edge_style(np.nan, 2.0)[1] == 1.0 and node_fill(np.nan, 1.0) == PAPER
    assert bound_of(np.array([np.nan, -3.0, 1.0])) == 3.0 and bound_of(np.array([np.nan])) == 1.0


@pytest.mark.parametrize("score", [-1.0, 1.0, 0.3])
def test_names_can_be_read_on_every_fill(score):
    assert contrast(INK, node_fill(score, 1.0)) >= 4.5


def test_the_png_shows_boxes_and_edges_where_the_layout_has_them(drawn):
    graph, layout = drawn
    picture = Image.open(io.BytesIO(graph_png(graph, layout, range(len(graph.edges)), "title", ["a", "b", "c"], 1.0)))
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert picture.size[0] == round(max(layout.width, LEAST))
    for node, (x, y) in zip(graph.nodes, layout.nodes.astype(int), strict=True):
        inside = pixels[y + HEAD_ROOM - int(BOX[1] / 2) + 4, x - int(BOX[0] / 2) + 6]
        wanted = node_fill(node.score, bound_of(np.array([each.score for each in graph.nodes])))
        assert np.abs(inside - [int(wanted[at : at + 2], 16) for at in (1, 3, 5)]).max() <= 2
    empty = Image.open(io.BytesIO(graph_png(graph, layout, [], "title", ["a", "b", "c"], 1.0)))
    bare = np.asarray(empty.convert("RGB")).astype(int)
    changed = np.abs(pixels - bare).max(2) > 8
    x, y = layout.paths[0][:2].astype(int)
    assert changed[y + HEAD_ROOM - 3, x - 2 : x + 3].any() and 0.01 < changed.mean() < 0.6


def test_a_huge_graph_makes_a_picture_of_a_sane_size(drawn):
    graph, layout = drawn
    from dataclasses import replace

    tall = replace(layout, height=60_000.0)
    picture = Image.open(io.BytesIO(graph_png(graph, tall, [0], "title", ["a", "b", "c"])))
    assert picture.size[0] * picture.size[1] < 61_000_000


def contrast(first, second):
    """The contrast of two colours as WCAG 2 defines it."""
    parts = np.array([[int(c[at : at + 2], 16) / 255 for at in (1, 3, 5)] for c in (first, second)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)
