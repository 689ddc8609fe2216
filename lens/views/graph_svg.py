"""A head graph as SVG, which needs no style sheet and no script: for papers, and where a notebook is only read."""

from collections.abc import Iterable, Sequence

import numpy as np

from headlens.numbers import decimals, shown
from headlens.views.graph_data import GraphNode, HeadGraph
from headlens.views.graph_layout import BOX, LEFT, Layout
from headlens.views.graph_style import FONT, INK, LINE, PAPER, SOFT, bound_of, edge_style, node_fill, svg_text

HEAD_ROOM, FOOT_ROOM, LEAST = 56, 46, 420


def graph_svg(graph: HeadGraph, layout: Layout, edges: Sequence[int], title: str, notes: Sequence[str]) -> str:
    """The picture with these edges (places in `graph.edges`), one path each, weakest first so that strong lie on top.

    Equal arguments make equal text.
    """
    bound = bound_of(graph.magnitudes)
    size = (max(layout.width, LEAST), layout.height + HEAD_ROOM + FOOT_ROOM)
    of_nodes = bound_of(np.array([node.score for node in graph.nodes]))
    ends = {end for at in edges for end in (graph.edges[at].sender, graph.edges[at].receiver)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]:g} {size[1]:g}" width="{size[0]:g}" '
        f'height="{size[1]:g}" role="img" font-family="{FONT}" font-size="12">',
        f"<title>{svg_text(title)}</title>",
        f"<desc>{svg_text(' '.join(notes))}</desc>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<text x="16" y="26" font-size="16" font-weight="600" fill="{INK}">{svg_text(title)}</text>',
        *(f'<text x="16" y="{44 if at == 0 else size[1] - 30 + 15 * (at - 1)}" fill="{SOFT}">{svg_text(note)}</text>'
          for at, note in enumerate(notes)),
        f'<g transform="translate(0 {HEAD_ROOM})">',
        *_ground(layout),
        '<g class="edges" fill="none" stroke-linecap="round">',
        *(_edge(graph, layout, at, bound) for at in reversed(edges)),
        "</g>",
        '<g class="nodes" text-anchor="middle">',
        *(_node(node, layout.nodes[at], of_nodes, at in ends) for at, node in enumerate(graph.nodes)),
        "</g>",
        "</g>",
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def edge_title(graph: HeadGraph, at: int) -> str:
    """An edge in words: "L0H1 → L5H2 (key): −0.031"."""
    edge, digits = graph.edges[at], decimals(bound_of(graph.magnitudes))
    use = {"q": " (query)", "k": " (key)", "v": " (value)"}.get(edge.port, "")
    score = shown(edge.score, digits) if edge.score == edge.score else "no score"
    return f"{graph.nodes[edge.sender].name} \N{RIGHTWARDS ARROW} {graph.nodes[edge.receiver].name}{use}: {score}"


def _ground(layout: Layout) -> Iterable[str]:
    for name, y in layout.rows:
        if name:
            yield f'<text x="12" y="{y + 4:g}" fill="{SOFT}">{name}</text>'
        yield f'<line x1="{LEFT:g}" x2="{layout.width:g}" y1="{y:g}" y2="{y:g}" stroke="{LINE}" stroke-opacity="0.4"/>'
    for name, low, high in layout.bands:
        yield (
            f'<text x="{(low + high) / 2:g}" y="16" text-anchor="middle" font-weight="600" fill="{INK}">'
            f"{svg_text(name)}</text>"
            f'<line x1="{low:g}" x2="{high:g}" y1="22" y2="22" stroke="{SOFT}"/>'
        )


def _edge(graph: HeadGraph, layout: Layout, at: int, bound: float) -> str:
    x0, y0, *rest = layout.paths[at]
    curve = f"M{x0:g} {y0:g}C" + " ".join(f"{number:g}" for number in rest)
    colour, width = edge_style(graph.edges[at].score, bound)
    words = svg_text(edge_title(graph, at))
    return f'<path d="{curve}" stroke="{colour}" stroke-width="{width:g}"><title>{words}</title></path>'


def _node(node: GraphNode, middle: np.ndarray, bound: float, joined: bool) -> str:
    (x, y), (wide, high) = middle, BOX
    # MLPs are round and heads are square, so that they differ in more than their names
    radius = high / 2 if node.kind == "mlp" else 4
    stroke = INK if joined else LINE
    about = f" ({node.role})" if node.role else ""
    return (
        f'<g><title>{svg_text(node.name + about)}</title><rect x="{x - wide / 2:g}" y="{y - high / 2:g}" '
        f'width="{wide:g}" height="{high:g}" rx="{radius:g}" fill="{node_fill(node.score, bound)}" stroke="{stroke}"/>'
        f'<text x="{x:g}" y="{y + 4:g}" fill="{INK if joined else SOFT}">{svg_text(node.name)}</text></g>'
    )
