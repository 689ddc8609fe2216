"""What is said of a head graph: beside a picture in a file, and around a page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.numbers import shown
from headlens.page_text import provenance
from headlens.views.graph_data import HeadGraph
from headlens.views.graph_payload import digits_of
from headlens.views.graph_style import bound_of
from headlens.views.page import About

# How many edges readers without scripts are told of.
_TOP = 25
_USES = {"q": "query", "k": "key", "v": "value"}
_ENTERS = "Edges run upwards and enter a head as query (left), key or value (right)."
_COLOURS = "Orange: positive, carries the clean behaviour. Blue: negative. Thickness: magnitude."


def score_words(source: Circuit | EdgeMap) -> str:
    """What the scores are, in a sentence, as far as the source says."""
    if isinstance(source, EdgeMap):
        return f"Scores are in {source.units}."
    if source.provenance.get("method") == "sweep":
        return "Heads were chosen by the sum of two magnitudes, so that the colour of a box says nothing of its sign."
    return ""


def counted(graph: HeadGraph) -> str:
    """How large a graph is: "19 heads, 42 nodes, 183 edges"."""
    heads = sum(node.kind == "head" for node in graph.nodes)
    return f"{heads} heads, {len(graph.nodes)} nodes, {len(graph.edges)} edges"


def picture_words(graph: HeadGraph, drawn: Sequence[int], scores: str) -> tuple[str, list[str]]:
    """The title of a file's picture, and the lines over and under it; `scores` as `score_words` says it."""
    over = f"{counted(graph)}, of which {len(drawn)} drawn"
    scored = [graph.magnitudes[at] for at in drawn if graph.magnitudes[at] == graph.magnitudes[at]]
    if scored:
        digits = digits_of(bound_of(graph.magnitudes))
        over += f", magnitudes {shown(float(min(scored)), digits)} to {shown(float(max(scored)), digits)}"
    return graph.name, [over, _COLOURS if scored or not scores else scores, _ENTERS]


def graph_about(graph: HeadGraph, units: str, made_from: Mapping[str, Any], styles: Sequence[str]) -> About:
    """The words of the page around a graph; `units` are a sentence, and may be empty."""
    signs = (
        "Orange edges and boxes have positive scores, which carry the clean behaviour, blue ones negative; thick edges "
        "have large ones."
    )
    said = [
        "Each box is a head (square), an MLP (round), the embedding or the logits; layers lie upwards. Each line is an "
        "edge that the circuit keeps: what its lower end writes is read by its upper end.",
        "" if np.isnan(graph.magnitudes).all() else signs,
        "Choose a node to see its strongest edges.",
        units,
    ]
    return About(
        title=graph.name,
        made=counted(graph),
        said=f'<p class="guide">{escape(" ".join(part for part in said if part))}</p>\n',
        tables=_table(graph),
        origin=provenance(made_from),
        styles=styles,
    )


def _table(graph: HeadGraph) -> str:
    """The strongest edges, for readers without scripts."""
    digits = digits_of(bound_of(graph.magnitudes))
    rows = []
    for edge in graph.edges[:_TOP]:
        use = f", {_USES[edge.port]}" if edge.port in _USES else ""
        words = f"{graph.nodes[edge.sender].name} \N{RIGHTWARDS ARROW} {graph.nodes[edge.receiver].name}{use}"
        score = shown(edge.score, digits) if edge.score == edge.score else "no score"
        rows.append(f'<tr><td>{escape(words)}</td><td class="number">{score}</td></tr>')
    return (
        f"<table><caption>The first {len(rows)} of {len(graph.edges)} edges, largest magnitude first</caption>"
        '<thead><tr><th scope="col">edge</th><th scope="col" class="number">score</th></tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table>"
    )
