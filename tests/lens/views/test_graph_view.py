"""GraphView without a browser: a trait is set, and what it should bring about is there."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from drawn_circuits import drawn_circuit
from headlens.analyses.circuits.graph import read_graphml
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.javascript import module
from headlens.views.graph_payload import LISTED, UNSCORED
from headlens.views.graph_view import GraphView


@pytest.fixture(scope="module")
def circuit():
    """A circuit with a role."""
    circuit = drawn_circuit(edges=90)
    return replace(circuit, roles={str(circuit.heads[-1]): "name mover"})


@pytest.fixture
def view(circuit):
    return GraphView(circuit)


def test_the_threshold_says_which_edges_are_drawn(view):
    assert view.threshold == 0 and len(view.drawn) == len(view.graph.edges)
    view.threshold = float(view.graph.magnitudes[9])
    assert view.drawn == tuple(range(10))
    assert view.svg().count("<path") == 10
    view.threshold = 1e9
    assert view.drawn == () and view.svg().count("<path") == 0


def test_the_strongest_edges_are_drawn_at_first():
    view = GraphView(drawn_circuit(edges=400, chosen=25))
    assert len(view.graph.edges) > 300 and len(view.drawn) == 200


def test_choosing_a_node_opens_its_card(view, circuit):
    assert view.selected is None and view.card is None
    head = str(circuit.heads[-1])
    view.selected = head
    card = view.card
    assert (card.name, card.kind, card.role) == (head, "head", "name mover")
    assert (card.layer, card.head) == circuit.heads[-1]
    senders = [str(node) for node in circuit.wiring.senders]
    assert card.score == circuit.node_scores[senders.index(head)]
    frame = circuit.to_frame()
    own = frame[frame["sender"] == head].head(1)
    assert card.outgoing[0][1].score == pytest.approx(own["score"].item())
    assert all(view.graph.nodes[edge.receiver].name == head for _, edge in card.incoming)
    assert all(view.graph.nodes[edge.sender].name == other for other, edge in card.incoming)
    strengths = [abs(edge.score) for _, edge in card.incoming]
    assert strengths == sorted(strengths, reverse=True) and 0 < len(strengths) <= LISTED


def test_edges_without_scores_are_drawn_for_all_or_for_the_chosen_node():
    few = GraphView(drawn_circuit(edges=90, scored=False))
    assert few.selected is None and len(few.drawn) == len(few.graph.edges) < UNSCORED
    many = GraphView(drawn_circuit(edges=500, chosen=30, scored=False))
    assert len(many.graph.edges) > UNSCORED and not many.data["unscored"]
    scores = [abs(node.score) for node in many.graph.nodes if node.kind == "head"]
    assert abs(many.card.score) == max(scores)
    many.selected = "embed"
    assert {many.graph.edges[at].sender for at in many.drawn} == {0} and many.drawn
    many.selected = None
    assert many.drawn == ()


def test_cards_without_edge_scores_list_the_largest_neighbours_first():
    view = GraphView(drawn_circuit(edges=90, scored=False), selected="logits")
    scores = [abs(view.graph.nodes[edge.sender].score) for _, edge in view.card.incoming]
    known = [score for score in scores if score == score]
    assert known and scores[: len(known)] == sorted(known, reverse=True)


def test_nodes_lie_by_role_or_by_position_where_these_are_known(view, circuit):
    assert list(view.layouts) == ["compact", "role"]
    view.across = "role"
    assert {name for name, _, _ in view.layout_shown.bands} == {"name mover", "no role"}
    assert "name mover</text>" in view.svg()
    first, other = (str(head) for head in circuit.heads[:2])
    placed = GraphView(circuit, positions={first: "END", other: "S2"}, across="position")
    assert {name for name, _, _ in placed.layout_shown.bands} == {"END", "S2", "elsewhere"}
    with pytest.raises(ValueError, match="across='roles' was given .did you mean 'role'..; this graph can lie by"):
        view.across = "roles"
    bare = GraphView(drawn_circuit())
    assert list(bare.layouts) == ["compact"]


def test_what_is_not_there_is_refused(view, circuit):
    with pytest.raises(ValueError, match="'L99H0' is not a node of this graph"):
        view.selected = "L99H0"
    with pytest.raises(ValueError, match="threshold=-1.0 was given; expected a number of at least 0"):
        view.threshold = -1.0
    with pytest.raises(ValueError, match="zoom=nan"):
        view.zoom = float("nan")
    with pytest.raises(ValueError, match="'L99H0' is not a node"):
        GraphView(circuit, positions={"L99H0": "END"})
    with pytest.raises(ValueError, match="A dict was given; a head graph shows a Circuit or an EdgeMap"):
        GraphView({})
    assert view.selected is None and view.threshold == 0 and view.zoom == 0


def test_graphml_holds_all_kept_edges(view, circuit, tmp_path):
    view.threshold = 1e9
    path = view.to_graphml(tmp_path / "graph.graphml")
    assert read_graphml(path) == circuit
    read = nx.read_graphml(path)
    wanted = {
        (view.graph.nodes[e.sender].name, view.graph.nodes[e.receiver].name, e.port): e.score for e in view.graph.edges
    }
    found = {
        (sender, receiver, key): about["score"] for sender, receiver, key, about in read.edges(keys=True, data=True)
    }
    assert found == pytest.approx(wanted)
    assert {name: about.get("role", "") for name, about in read.nodes(data=True)} == {
        node.name: node.role for node in view.graph.nodes
    }


def test_files_show_what_is_drawn(view, tmp_path):
    view.threshold = float(view.graph.magnitudes[4])
    svg = view.to_svg(tmp_path / "deep" / "graph.svg")
    assert svg.read_text() == view.svg() and ElementTree.parse(svg).getroot().tag.endswith("svg")
    sizes = {}
    for scale in (1.0, 2.0):
        with Image.open(view.to_png(tmp_path / "graph.png", scale=scale)) as picture:
            sizes[scale] = picture.size
    assert sizes[2.0][0] == 2 * sizes[1.0][0]


def test_an_edge_map_says_its_units(circuit):
    edges = EdgeMap(circuit.scores, circuit.wiring, name="effects", units="logits", sign="s")
    view = GraphView(edges, top=40)
    assert view.data["units"] == "Scores are in logits." and view.graph.name == "effects"
    assert 0 < view.circuit.n_edges <= 40


def test_what_is_sent_is_small_and_complete(view):
    paths = np.frombuffer(view.paths, "<i2").reshape(len(view.layouts), -1, 8)
    assert all(np.array_equal(sent, layout.paths) for sent, layout in zip(paths, view.layouts.values(), strict=True))
    big = GraphView(drawn_circuit(layers=12, heads=12, kv_heads=12, chosen=60, edges=900))
    assert 400 < len(big.graph.edges) and len(str(big.data)) + len(big.paths) < 100_000


def test_a_saved_page_is_complete_and_the_same_each_time(view, tmp_path):
    path = view.save(tmp_path / "graph.html")
    page = path.read_text()
    assert page == view.html() and module("graph.js") in page and path.stat().st_size < 120_000
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", page.replace("http://www.w3.org/2000/svg", ""))
    view.threshold = 0.5
    assert '"threshold":0.5' in view.html() and '"threshold":0.5' not in page
    strongest = view.graph.edges[0]
    assert page.index(view.graph.nodes[strongest.sender].name) and "largest magnitude first" in page


def test_hostile_names_are_inert_on_the_page(circuit):
    hostile = "</script><img src=x onerror=alert(1)>"
    told = replace(circuit, name=hostile, roles={str(circuit.heads[0]): hostile}, provenance={"model": hostile})
    assert "<img" not in GraphView(told, positions={str(circuit.heads[1]): hostile}).html()
    edges = EdgeMap(circuit.scores, circuit.wiring, name=hostile, units=hostile, sign=hostile)
    assert "<img" not in GraphView(edges).html()


def test_a_notebook_that_is_only_read_shows_the_picture(view):
    bundle = view._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["image/svg+xml"] == view.svg() and len(view.svg()) < 100_000


def test_a_circuit_of_magnitudes_says_so(circuit):
    swept = GraphView(replace(circuit, provenance={"method": "sweep"}))
    assert "says nothing of its sign" in swept.data["units"] and "says nothing of its sign" in swept.html()
    assert GraphView(circuit).data["units"] == ""
    bare = GraphView(replace(circuit, scores=None, provenance={"method": "sweep"}))
    assert "says nothing of its sign</text>" in bare.svg().replace(".</text>", "</text>")
    assert "carries the clean behaviour" not in bare.svg() and "carry the clean behaviour" not in bare.html()
    assert "carry the clean behaviour" in GraphView(circuit).html()


def test_its_own_code_is_small(view):
    assert len(view._esm.encode()) + len(view._css.encode()) < 60_000
