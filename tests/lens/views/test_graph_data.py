"""A circuit's graph: every kept edge once for each node that it reaches, strongest first."""

from dataclasses import replace

import numpy as np
import pytest

from drawn_circuits import drawn_circuit
from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.hooks.wiring import Wiring
from headlens.views.graph_data import head_graph


def edges_of(graph):
    return {(graph.nodes[edge.sender].name, graph.nodes[edge.receiver].name, edge.port) for edge in graph.edges}


def test_the_edges_are_those_that_are_kept():
    circuit = drawn_circuit()
    kept = set()
    for row, column in np.argwhere(circuit.kept):
        sender, receiver = circuit.wiring.senders[row], circuit.wiring.receivers[column]
        if receiver.kind in ("k", "v"):
            sharing = [
                head for head in circuit.heads if head.layer == receiver.layer and head.head // 2 == receiver.head
            ]
            kept |= {(str(sender), str(head), receiver.kind) for head in sharing}
        else:
            kept.add((str(sender), str(receiver).removesuffix(".q"), receiver.kind))
    assert edges_of(head_graph(circuit)) == kept and len(kept) > circuit.n_edges


def test_strong_edges_come_first_and_unknown_ones_last():
    circuit = drawn_circuit()
    scores = circuit.scores.copy()
    scores[np.unravel_index(np.flatnonzero(circuit.kept)[::5], scores.shape)] = np.nan
    graph = head_graph(replace(circuit, scores=scores))
    unknown = np.isnan(graph.magnitudes)
    assert 0 < unknown.sum() < len(unknown) and np.array_equal(unknown, np.sort(unknown))
    known = graph.magnitudes[~unknown]
    assert np.array_equal(known, -np.sort(-known))
    for edge in graph.edges[:9]:
        receiver = graph.nodes[edge.receiver]
        named = {
            "q": f"{receiver.name}.q",
            "k": f"L{receiver.layer}KV{receiver.head // 2}.k",
            "v": f"L{receiver.layer}KV{receiver.head // 2}.v",
        }.get(edge.port, receiver.name)
        column = [str(each) for each in circuit.wiring.receivers].index(named)
        row = [str(each) for each in circuit.wiring.senders].index(graph.nodes[edge.sender].name)
        assert edge.score == scores[row, column]


def test_nodes_compute_in_order_and_keep_what_is_known_of_them():
    circuit = drawn_circuit()
    first, other = (str(head) for head in circuit.heads[:2])
    graph = head_graph(replace(circuit, roles={first: "name mover"}))
    assert [node.name for node in graph.nodes] == ["embed", *(str(node) for node in circuit.nodes[1:]), "logits"]
    at = graph.place(first)
    assert graph.nodes[at].role == "name mover" and graph.nodes[graph.place(other)].role == ""
    assert graph.nodes[at].score == circuit.node_scores[[str(n) for n in circuit.wiring.senders].index(first)]
    assert np.isnan(graph.nodes[0].score) and np.isnan(graph.nodes[-1].score)


def test_an_edge_map_is_the_circuit_of_its_largest_edges():
    circuit = drawn_circuit(edges=400)
    edges = EdgeMap(circuit.scores, circuit.wiring, name="effects", units="u", sign="s")
    graph = head_graph(edges, top=60)
    assert graph.name == "effects" and 0 < len(graph.edges)
    everything = head_graph(edges, top=10_000)
    least = np.sort(np.abs(circuit.scores[~np.isnan(circuit.scores)]))[-60]
    strong = {
        (everything.nodes[edge.sender].name, everything.nodes[edge.receiver].name, edge.port)
        for edge in everything.edges
        if abs(edge.score) >= least
    }
    assert edges_of(graph) <= strong


def test_what_has_no_graph_is_refused():
    wiring = Wiring(2, 2, ("after",) * 2)
    with pytest.raises(ValueError, match="no kept edge lies on a way"):
        head_graph(Circuit(wiring, np.zeros(wiring.possible.shape, bool)))
    with pytest.raises(ValueError, match="A list was given; a head graph shows a Circuit or an EdgeMap"):
        head_graph([])
    graph = head_graph(drawn_circuit())
    with pytest.raises(ValueError, match="'logit' is not a node of this graph .did you mean 'logits'"):
        graph.place("logit")
