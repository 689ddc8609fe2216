"""A head map as SVG that needs no style sheet: for where a notebook is only read."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from headlens.numbers import decimals, reach, shown
from headlens.pictures import Picture, title_of
from headlens.views.graph_style import FONT, HATCH, INK, PAPER, SOFT, diverging, svg_text

_GROUND = "#f0efec"
_LEFT, _TOP, _WIDE = 64.0, 76.0, 640.0
# Cells of one shade are one path, which keeps a large map small; so many shades to each side of 0.
_SHADES = 24
# Pixels of a letter.
_LETTER = 7
# Labels of an axis at most.
_TICKS = 24


def map_svg(picture: Picture, metric: str = "") -> str:
    """The map of the outer dims, each cell at its largest magnitude, on a scale symmetric about 0.

    Equal maps make equal text; missing cells are dashed.
    """
    flat = picture.at_peaks
    values = flat.values.reshape(len(flat.values), -1)
    rows, columns = values.shape
    cell = (float(np.clip(_WIDE / columns, 4, 30)), float(np.clip(520 / rows, 6, 22)))
    bound = reach(flat)
    wide, high = columns * cell[0], rows * cell[1]
    digits = decimals(bound)
    title = _short(f"{flat.name}: {metric}" if metric else flat.name)
    strongest = _short(_strongest(flat.values, flat.label, digits))
    scale = _short(f"blue {shown(-bound, digits)}, orange {shown(bound, digits)}: {flat.units}")
    words = 32 + _LETTER * max(len(strongest), len(scale), len(title) * 4 / 3)
    width, height = max(_LEFT + wide + 24, words), _TOP + high + 64
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="{FONT}" font-size="12">',
        f"<title>{svg_text(title)}</title><desc>{svg_text(flat.sign)}</desc>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<text x="16" y="24" font-size="16" font-weight="600" fill="{INK}">{svg_text(title)}</text>',
        f'<text x="16" y="42" fill="{SOFT}">{svg_text(strongest)}</text>',
        f'<g transform="translate({_LEFT:g} {_TOP:g})">',
        f'<rect width="{wide:g}" height="{high:g}" fill="{_GROUND}"/>',
        *shaded(values / bound, cell),
        *_ticks(picture, cell),
        "</g>",
        f'<text x="16" y="{height - 14:g}" fill="{SOFT}">{svg_text(scale)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def shaded(shares: np.ndarray, cell: tuple[float, float]) -> Iterator[str]:
    """Cells [row, column] of -1 to 1 on the diverging scale, a path for each shade; NaN is dashed."""
    shades = np.round(_SHADES * np.clip(shares, -1, 1))
    for shade in np.unique(shades[~np.isnan(shades) & (shades != 0)]):
        boxes = "".join(_box(at, cell) for at in np.argwhere(shades == shade))
        yield f'<path fill="{diverging(float(shade) / _SHADES, _GROUND)}" d="{boxes}"/>'
    missing = "".join(_box(at, cell) for at in np.argwhere(np.isnan(shades)))
    if missing:
        dashed = f'fill="{PAPER}" stroke="{HATCH}" stroke-dasharray="2 2"'
        yield f'<path {dashed} d="{missing}"><title>missing</title></path>'


def _box(at: np.ndarray, cell: tuple[float, float]) -> str:
    return f"M{at[1] * cell[0]:.1f} {at[0] * cell[1]:.1f}h{cell[0]:.1f}v{cell[1]:.1f}h-{cell[0]:.1f}z"


def _ticks(picture: Picture, cell: tuple[float, float]) -> Iterator[str]:
    rows, *columns = picture.outer
    coords = picture.headmap.coords
    every = -(-len(coords[rows]) // _TICKS)
    for at in range(0, len(coords[rows]), every):
        y = (at + 0.5) * cell[1] + 4
        yield f'<text x="-6" y="{y:g}" text-anchor="end" fill="{SOFT}">{svg_text(str(coords[rows][at])[:9])}</text>'
    yield f'<text x="-6" y="-4" text-anchor="end" fill="{SOFT}">{svg_text(title_of(rows))}</text>'
    for dim in columns:
        longest = max(len(str(label)) for label in coords[dim])
        every = max(-(-len(coords[dim]) // _TICKS), int(np.ceil(8 * longest / cell[0])))
        for at in range(0, len(coords[dim]), every):
            x = (at + 0.5) * cell[0]
            yield f'<text x="{x:g}" y="-4" text-anchor="middle" fill="{SOFT}">{svg_text(str(coords[dim][at]))}</text>'
        yield f'<text x="0" y="-18" fill="{SOFT}">{svg_text(title_of(dim))}</text>'


def _strongest(values: np.ndarray, label: Any, digits: int | None) -> str:
    flat = np.abs(values.reshape(-1))
    if np.isnan(flat).all():
        return "All are missing."
    order = [at for at in np.argsort(-flat, kind="stable")[:5] if flat[at] == flat[at]]
    cells = [tuple(int(axis) for axis in np.unravel_index(at, values.shape)) for at in order]
    said = (f"{label(cell)} {shown(float(values[cell]), digits)}" for cell in cells)
    return f"Largest by magnitude: {', '.join(said)}"


def _short(text: str) -> str:
    return text if len(text) < 96 else f"{text[:94]}…"
