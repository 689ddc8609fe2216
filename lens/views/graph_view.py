"""GraphView: the head graph of a circuit or of an edge map, in a notebook and in files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import traitlets

from headlens.analyses.atomic import write_bytes, write_text
from headlens.hooks.nearest import did_you_mean
from headlens.views.graph_data import EDGES, GraphEdge, GraphNode, HeadGraph, as_circuit, head_graph
from headlens.views.graph_layout import Layout, lay_out
from headlens.views.graph_payload import LISTED, draws_unscored, graph_paths, graph_payload
from headlens.views.graph_svg import graph_svg
from headlens.views.graph_words import graph_about, picture_words, score_words
from headlens.views.page import About
from headlens.views.widget import View

# How many of the strongest edges are drawn at first.
_AT_FIRST = 200
_TITLES = {"compact": "compact", "role": "by role", "position": "by position"}


@dataclass(frozen=True)
class NodeCard:
    """What is known of one node: `incoming` and `outgoing` are its strongest kept edges, as (other node, edge)."""

    name: str
    kind: str
    layer: int
    head: int
    role: str
    score: float
    incoming: tuple[tuple[str, GraphEdge], ...]
    outgoing: tuple[tuple[str, GraphEdge], ...]


class GraphView(View):
    """The graph of a `Circuit`, or of the `top` edges of largest magnitude of an `EdgeMap`, without dead ends.

    Layers lie upwards. `across` is what lies from left to right: "compact" (few crossings), "role" where the circuit
    names roles, "position" where `positions` says where nodes act ({"L23H3": "END"}). An edge is drawn if its |score|
    reaches `threshold` (at first, the 200 strongest are); edges without a score always, or those of the `selected` node
    alone where there are more than 300. `zoom` 0 fits the graph to the page.

    Raises:
        ValueError: for anything else than a Circuit or an EdgeMap, one without an edge from the embedding to the
            logits, a position of a node that is not drawn, and traits set to what is not there.
    """

    modules = ("graph.js",)
    styles = ("graph.css",)

    data = traitlets.Dict().tag(sync=True)
    paths = traitlets.Bytes().tag(sync=True)
    threshold = traitlets.Float(0.0).tag(sync=True)
    selected = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    across = traitlets.Unicode("compact").tag(sync=True)
    zoom = traitlets.Float(0.0).tag(sync=True)

    def __init__(
        self, circuit: Any, top: int = EDGES, positions: Mapping[str, str] | None = None, **traits: Any
    ) -> None:
        self.circuit = as_circuit(circuit, top)
        self.graph = head_graph(self.circuit)
        self.layouts = {name: lay_out(self.graph, groups) for name, groups in _groups(self.graph, positions).items()}
        units = score_words(circuit)
        data = graph_payload(self.graph, self.layouts, _TITLES, units)
        first = {"threshold": _first_threshold(self.graph), "selected": _first_selected(self.graph)}
        super().__init__(data=data, paths=graph_paths(self.layouts), **{**first, **traits})

    @property
    def layout_shown(self) -> Layout:
        """The layout that `across` names."""
        return self.layouts[self.across]

    @property
    def drawn(self) -> tuple[int, ...]:
        """The edges that are drawn now, as places in `graph.edges`, strongest first."""
        magnitudes, chosen = self.graph.magnitudes, self.graph.places.get(self.selected or "", -1)
        every = draws_unscored(self.graph)
        return tuple(
            at
            for at, edge in enumerate(self.graph.edges)
            if magnitudes[at] >= self.threshold
            or (np.isnan(magnitudes[at]) and (every or chosen in (edge.sender, edge.receiver)))
        )

    @property
    def card(self) -> NodeCard | None:
        """The card of the selected node; None if there is none."""
        if self.selected is None:
            return None
        at = self.graph.place(self.selected)
        node = self.graph.nodes[at]
        incoming = [(self.graph.nodes[edge.sender], edge) for edge in self.graph.edges if edge.receiver == at]
        outgoing = [(self.graph.nodes[edge.receiver], edge) for edge in self.graph.edges if edge.sender == at]
        listed = (_ranked(edges)[:LISTED] for edges in (incoming, outgoing))
        return NodeCard(node.name, node.kind, node.layer, node.head, node.role, node.score, *listed)

    def svg(self) -> str:
        """The picture of what is drawn now, as SVG text."""
        return graph_svg(
            self.graph, self.layout_shown, self.drawn, *picture_words(self.graph, self.drawn, self.data["units"])
        )

    def to_svg(self, path: str | Path) -> Path:
        """Write `svg`, atomically, and return the path."""
        write_text(Path(path), self.svg())
        return Path(path)

    def to_png(self, path: str | Path, scale: float = 2.0) -> Path:
        """Write the picture of what is drawn now as PNG, `scale` pixels to each of the SVG's, and return the path.

        Pillow draws it, with the font that comes with it, which has few letters beyond ASCII; the SVG has them all.
        """
        from headlens.views.graph_png import graph_png

        write_bytes(
            Path(path),
            graph_png(
                self.graph,
                self.layout_shown,
                self.drawn,
                *picture_words(self.graph, self.drawn, self.data["units"]),
                scale=scale,
            ),
        )
        return Path(path)

    def to_graphml(self, path: str | Path) -> Path:
        """Write all kept edges, drawn or not, as GraphML for Gephi, Cytoscape and yEd, and return the path."""
        self.circuit.to_graphml(path)
        return Path(path)

    def fallback(self) -> str:
        return self.svg()

    def about(self) -> About:
        return graph_about(self.graph, self.data["units"], self.circuit.provenance, self.styles)

    @traitlets.validate("selected")
    def _known_node(self, proposal: Any) -> str | None:
        name = proposal["value"]
        if name is not None:
            self.graph.place(name)
        return name

    @traitlets.validate("across")
    def _known_layout(self, proposal: Any) -> str:
        name = proposal["value"]
        if name not in self.layouts:
            hint = did_you_mean(name, self.layouts)
            raise ValueError(f"across={name!r} was given{hint}; this graph can lie by {', '.join(self.layouts)}.")
        return name

    @traitlets.validate("threshold", "zoom")
    def _not_negative(self, proposal: Any) -> float:
        value = proposal["value"]
        if not value >= 0:
            raise ValueError(f"{proposal['trait'].name}={value} was given; expected a number of at least 0.")
        return value


def _groups(graph: HeadGraph, positions: Mapping[str, str] | None) -> dict[str, list[str] | None]:
    """By the name of each layout, the group of each node, in the order of the graph; None lets all lie anywhere."""
    found: dict[str, list[str] | None] = {"compact": None}
    if any(node.role for node in graph.nodes):
        found["role"] = [node.role or ("no role" if node.kind == "head" else "") for node in graph.nodes]
    if positions is not None:
        for name in positions:
            graph.place(name)
        found["position"] = [
            str(positions.get(node.name, "elsewhere" if node.kind == "head" else "")) for node in graph.nodes
        ]
    return found


def _ranked(edges: list[tuple[GraphNode, GraphEdge]]) -> tuple[tuple[str, GraphEdge], ...]:
    """From the strongest edge down; edges without a score follow, from the other end of largest score down."""
    known = [tuple(np.nan_to_num(np.abs([edge.score, end.score]), nan=-1.0)) for end, edge in edges]
    order = sorted(range(len(edges)), key=lambda at: (-known[at][0], -known[at][1]))
    return tuple((edges[at][0].name, edges[at][1]) for at in order)


def _first_threshold(graph: HeadGraph) -> float:
    scored = graph.magnitudes[~np.isnan(graph.magnitudes)]
    return 0.0 if len(scored) <= _AT_FIRST else float(scored[_AT_FIRST - 1])


def _first_selected(graph: HeadGraph) -> str | None:
    """No node, but for a graph that draws most edges at a chosen node alone: there the one of largest score."""
    if draws_unscored(graph):
        return None
    scores = np.nan_to_num(np.abs([node.score for node in graph.nodes]), nan=-1.0)
    return graph.nodes[int(scores.argmax())].name
