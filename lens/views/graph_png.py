"""A head graph as PNG, drawn by Pillow from the layout that the page has: no browser and no other package is needed."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from headlens.views.edge_paths import curve_points
from headlens.views.graph_data import HeadGraph
from headlens.views.graph_layout import BOX, LEFT, Layout
from headlens.views.graph_style import INK, LINE, PAPER, SOFT, bound_of, edge_style, mixed, node_fill
from headlens.views.graph_svg import FOOT_ROOM, HEAD_ROOM, LEAST

# Everything is drawn so many times larger and then made smaller, which smooths the lines.
_FINER = 2
# Larger pictures are drawn at a smaller scale: this many pixels before they are made smaller.
_MOST = 60_000_000
_PLAIN = {ord("\N{MINUS SIGN}"): "-", ord("\N{RIGHTWARDS ARROW}"): "->"}
_Number = int | float
_SHARES = np.linspace(0, 1, 33)


def graph_png(
    graph: HeadGraph, layout: Layout, edges: Sequence[int], title: str, notes: Sequence[str], scale: float = 2.0
) -> bytes:
    """The picture of `graph_svg` as a PNG file's bytes, `scale` pixels to each of the SVG's."""
    size = np.array([max(layout.width, LEAST), layout.height + HEAD_ROOM + FOOT_ROOM])
    finer = min(_FINER * scale, float(np.sqrt(_MOST / size.prod())))
    canvas = _Canvas(size, finer)
    canvas.text((16, 22), title, 16, INK, "lm")
    for at, note in enumerate(notes):
        canvas.text((16, 40 if at == 0 else size[1] - 34 + 15 * (at - 1)), note, 12, SOFT, "lm")
    canvas.down = HEAD_ROOM
    for name, y in layout.rows:
        canvas.line(np.array([[LEFT, y], [layout.width, y]]), mixed(LINE, 0.4), 1)
        canvas.text((12, y), name, 12, SOFT, "lm")
    for name, low, high in layout.bands:
        canvas.line(np.array([[low, 22], [high, 22]]), SOFT, 1)
        canvas.text(((low + high) / 2, 12), name, 12, INK, "mm")
    bound, of_nodes = bound_of(graph.magnitudes), bound_of(np.array([node.score for node in graph.nodes]))
    for at in reversed(edges):
        canvas.line(curve_points(layout.paths[at], _SHARES), *edge_style(graph.edges[at].score, bound))
    ends = {end for at in edges for end in (graph.edges[at].sender, graph.edges[at].receiver)}
    for at, node in enumerate(graph.nodes):
        outline = INK if at in ends else LINE
        canvas.box(layout.nodes[at], BOX[1] / 2 if node.kind == "mlp" else 4, node_fill(node.score, of_nodes), outline)
        canvas.text(layout.nodes[at], node.name, 12, INK if at in ends else SOFT, "mm")
    return canvas.png(_whole(size * min(scale, finer)))


def _whole(size: np.ndarray) -> tuple[int, int]:
    """Width and height in whole pixels."""
    width, height = size.round().astype(int).tolist()
    return width, height


class _Canvas:
    """An image whose coordinates are the layout's, `down` pixels lower."""

    def __init__(self, size: np.ndarray, finer: float) -> None:
        self.finer, self.down = finer, 0
        self.image = Image.new("RGB", _whole(size * finer), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def line(self, points: np.ndarray, colour: str, width: _Number) -> None:
        self.draw.line(self._at(points), fill=colour, width=max(1, round(width * self.finer)), joint="curve")

    def box(self, middle: np.ndarray, radius: _Number, fill: str, outline: str) -> None:
        half = np.array(BOX) / 2
        corners = self._at(np.stack([middle - half, middle + half]))
        self.draw.rounded_rectangle(corners, radius * self.finer, fill, outline, max(1, round(self.finer)))

    def text(self, at: Sequence[_Number] | np.ndarray, words: str, size: int, colour: str, anchor: str) -> None:
        # the font comes with Pillow, so that every machine makes the same picture, and has few signs beyond ASCII
        words = words.translate(_PLAIN)
        font = ImageFont.load_default(size * self.finer)
        self.draw.text(self._at(np.array([at]))[0], words, fill=colour, font=font, anchor=anchor)

    def png(self, size: tuple[int, int]) -> bytes:
        buffer = io.BytesIO()
        smooth = self.image.resize(size, Image.Resampling.LANCZOS)
        # 256 colours are as many as the eye finds here, and a third of the bytes
        smooth.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def _at(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [(float(x * self.finer), float((y + self.down) * self.finer)) for x, y in points]
