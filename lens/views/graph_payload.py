"""What `static/graph.js` draws, as plain values, and every edge's curve as bytes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from headlens.numbers import decimals
from headlens.views.graph_data import HeadGraph
from headlens.views.graph_layout import BOX, Layout
from headlens.views.graph_style import bound_of

# With more edges than this that have no score, only those of the chosen node are drawn.
UNSCORED = 300
# How many edges a node's card lists each way.
LISTED = 8


def graph_payload(
    graph: HeadGraph, layouts: Mapping[str, Layout], titles: Mapping[str, str], units: str
) -> dict[str, Any]:
    """The `data` of the module: see there."""
    bounds = {
        "node": bound_of(np.array([node.score for node in graph.nodes])),
        "edge": bound_of(graph.magnitudes),
    }
    return {
        "name": graph.name,
        "nodes": [
            {
                "name": node.name,
                "kind": node.kind,
                "layer": node.layer,
                "head": node.head,
                "role": node.role,
                "score": _known(node.score),
            }
            for node in graph.nodes
        ],
        "edges": [[edge.sender, edge.receiver, edge.port, _known(edge.score)] for edge in graph.edges],
        "layouts": [_layout(name, titles[name], layout) for name, layout in layouts.items()],
        "bounds": bounds,
        "digits": {what: digits_of(bound) for what, bound in bounds.items()},
        "unscored": draws_unscored(graph),
        "box": [*BOX],
        "listed": LISTED,
        "units": units,
    }


def graph_paths(layouts: Mapping[str, Layout]) -> bytes:
    """The curves [layout, edge, 8] as 16-bit integers, lowest byte first."""
    return np.stack([layout.paths for layout in layouts.values()]).astype("<i2").tobytes()


def draws_unscored(graph: HeadGraph) -> bool:
    """Whether edges without a score are few enough to be drawn for all nodes at once."""
    return int(np.isnan(graph.magnitudes).sum()) <= UNSCORED


def digits_of(bound: float) -> int | None:
    """How many decimals scores of this reach are shown to: one more than of a map, since most are small."""
    digits = decimals(bound)
    return None if digits is None else digits + 1


def _known(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def _layout(name: str, title: str, layout: Layout) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "nodes": layout.nodes.astype(int).tolist(),
        "rows": [[row, float(y)] for row, y in layout.rows],
        "bands": [[band, float(low), float(high)] for band, low, high in layout.bands],
        "width": float(layout.width),
        "height": float(layout.height),
    }
