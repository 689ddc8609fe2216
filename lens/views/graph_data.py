"""A circuit as the nodes and edges that a picture of it has, strongest edge first."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.circuits.find import circuit_of_edges
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.hooks.nearest import did_you_mean

# An edge map is drawn as the circuit of so many edges, unless told otherwise.
EDGES = 200


@dataclass(frozen=True)
class GraphNode:
    """What is drawn as one box: a head, an MLP, the embedding or the logits. `score` is NaN where unknown."""

    name: str
    kind: str
    layer: int
    head: int
    role: str
    score: float


@dataclass(frozen=True)
class GraphEdge:
    """One line from node `sender` to node `receiver` (places in `HeadGraph.nodes`).

    `port` is what the receiver uses it as: q, k or v of a head, mlp, or logits. `score` is NaN where unknown.
    """

    sender: int
    receiver: int
    port: str
    score: float


@dataclass(frozen=True)
class HeadGraph:
    """Nodes in the order in which they compute, and edges from the largest magnitude to the smallest, unknown last."""

    name: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    @cached_property
    def places(self) -> Mapping[str, int]:
        return {node.name: at for at, node in enumerate(self.nodes)}

    @cached_property
    def magnitudes(self) -> np.ndarray:
        """|score| of every edge, falling; NaN where unknown, at the end."""
        return np.abs(np.array([edge.score for edge in self.edges], np.float64))

    def place(self, name: str) -> int:
        """Where a node is. ValueError for a name that is not drawn."""
        if name not in self.places:
            raise ValueError(f"{name!r} is not a node of this graph{did_you_mean(name, self.places)}.")
        return self.places[name]


def head_graph(source: Any, top: int = EDGES) -> HeadGraph:
    """The graph of a circuit without its dead ends, or of the `top` edges of largest magnitude of an edge map.

    A key or value that query heads share is an edge to each of those in the circuit, as in `Circuit.to_networkx`.
    ValueError for anything else, or where no edge is left.
    """
    return _of_circuit(as_circuit(source, top))


def as_circuit(source: Any, top: int = EDGES) -> Circuit:
    """A circuit itself, or the `top` edges of an edge map without dead ends."""
    match source:
        case Circuit():
            return source
        case EdgeMap():
            return circuit_of_edges(source, top, source.name)
    raise ValueError(f"A {type(source).__name__} was given; a head graph shows a Circuit or an EdgeMap.")


def _of_circuit(circuit: Circuit) -> HeadGraph:
    graph = circuit.to_networkx()
    if not graph.number_of_edges():
        raise ValueError(f"{circuit.name}: no kept edge lies on a way from the embedding to the logits.")
    nodes = [
        GraphNode(name, at["kind"], at["layer"], at["head"], at.get("role", ""), at.get("score", np.nan))
        for name, at in graph.nodes(data=True)
    ]
    nodes.sort(key=lambda node: (node.layer, node.kind == "mlp", node.head))
    places = {node.name: at for at, node in enumerate(nodes)}
    edges = [
        GraphEdge(places[sender], places[receiver], port, about.get("score", np.nan))
        for sender, receiver, port, about in graph.edges(keys=True, data=True)
    ]
    edges.sort(key=lambda edge: (edge.sender, edge.receiver, edge.port))
    # a stable sort, so that equal scores stay in the order above
    edges.sort(key=lambda edge: -abs(edge.score) if edge.score == edge.score else 1.0)
    return HeadGraph(circuit.name, tuple(nodes), tuple(edges))
