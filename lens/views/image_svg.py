"""Attention over pictures as SVG that needs no style sheet: for where a notebook is only read."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from headlens.analyses.vision.gaze import Gaze
from headlens.views.graph_style import FONT, INK, PAPER, SOFT, svg_text

ATTENTION = "#ff5a00"
# How much of the picture the strongest colour covers, as on the page.
_COVER = 0.8
_SIDE, _GAP, _TOP, _LETTERS = 260.0, 24.0, 62.0, 44
# Pixels of a picture's longer side, at most: the same picture stands beside itself, before and after.
_PIXELS = 260


def image_svg(
    gazes: Mapping[str, Gaze],
    pictures: Sequence[UInt8[np.ndarray, "_row _column 3"]],
    rows: Sequence[Float[np.ndarray, " _patch"]],
    tokens: Sequence[str],
    drawn: str,
) -> str:
    """A column for each gaze, in it each grid of patches: grey pictures, the more orange the more attention.

    `rows` are the attention of each gaze's row over its patches, all on one scale, `tokens` the word that each row is
    shown for, and `drawn` says whose attention it is, such as "L2H5".
    """
    bound = max(1e-9, *(float(row.max(initial=0)) for row in rows))
    sizes = [_fitted(pictures[grid.image].shape) for grid in next(iter(gazes.values())).grids]
    width = 16 + len(gazes) * (_SIDE + _GAP)
    height = _TOP + sum(high + 12 for _, high in sizes) + 28
    title = f"Where {drawn} looks"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="{FONT}" font-size="12">',
        f"<title>{svg_text(title)}</title>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<text x="16" y="24" font-size="16" font-weight="600" fill="{INK}">{svg_text(title)}</text>',
    ]
    for at, (name, gaze) in enumerate(gazes.items()):
        words = f"{name + ', ' if name else ''}at “{tokens[at].strip()}”: {rows[at].sum():.1%} on the image"
        x = 16 + at * (_SIDE + _GAP)
        parts.append(f'<text x="{x:g}" y="50" fill="{SOFT}">{svg_text(_short(words))}</text>')
        parts += _column(gaze, pictures, rows[at] / bound, sizes, x)
    scale = f"Full colour: {bound:.2%} of a row's attention on one patch."
    parts += [f'<text x="16" y="{height - 12:g}" fill="{SOFT}">{scale}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def _column(
    gaze: Gaze,
    pictures: Sequence[np.ndarray],
    shares: np.ndarray,
    sizes: Sequence[tuple[float, float]],
    x: float,
) -> Iterator[str]:
    y = _TOP
    for at, (grid, (wide, high)) in enumerate(zip(gaze.grids, sizes, strict=True)):
        address, coarse = _grey(pictures[grid.image])
        crisp = ' style="image-rendering:pixelated"' if coarse else ""
        yield f'<g transform="translate({x:g} {y:g})">'
        yield f'<image href="{address}" width="{wide:g}" height="{high:g}" preserveAspectRatio="none"{crisp}/>'
        yield f'<g fill="{ATTENTION}">'
        yield from _patches(gaze, at, shares, (wide / grid.columns, high / grid.rows))
        yield "</g></g>"
        y += high + 12


def _patches(gaze: Gaze, grid: int, shares: np.ndarray, cell: tuple[float, float]) -> Iterator[str]:
    wide, high = cell
    for patch in np.flatnonzero(gaze.cells[:, 0] == grid):
        _, row, column = gaze.cells[patch]
        depth = _COVER * shares[patch]
        # what would be invisible is left out, which keeps pictures of many patches small
        if depth >= 0.005:
            place = f'x="{column * wide:.1f}" y="{row * high:.1f}" width="{wide:.1f}" height="{high:.1f}"'
            yield f'<rect {place} fill-opacity="{depth:.2f}"/>'


def _fitted(shape: Sequence[int]) -> tuple[float, float]:
    scale = _SIDE / max(shape[:2])
    return shape[1] * scale, shape[0] * scale


def _grey(picture: UInt8[np.ndarray, "_row _column 3"]) -> tuple[str, bool]:
    """A picture as an address, grey so that no colour of it is taken for attention; and whether it has few pixels."""
    image = Image.fromarray(picture).convert("L")
    image.thumbnail((_PIXELS, _PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", max(image.size) < _PIXELS


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
