"""Two maps beside each other and their ranks as SVG, for where a notebook is only read."""

from collections.abc import Iterator

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.numbers import decimals, shown
from headlens.views.compare_data import Compared
from headlens.views.graph_style import FONT, HATCH, INK, LINE, PAPER, SOFT, diverging, svg_text

_GROUND = "#f0efec"
_SIDE, _GAP, _TOP, _MARGIN = 300.0, 44.0, 96.0, 40.0
# So many shades to each side of 0: cells of one shade are one path, which keeps a large map small.
_SHADES = 16


def compare_svg(found: Compared, top: int) -> str:
    """Both maps on their scales, full circles on top of both and rings on top of one, and the ranks by magnitude."""
    rows, columns = found.maps[0].values.shape
    high = float(np.clip(rows * 16, 160, 460))
    cell = np.array([_SIDE / columns, high / rows])
    width, height = 3 * (_SIDE + _GAP) + _MARGIN, _TOP + max(high, _SIDE) + 64
    words = [found.overlap_in_words(top), _correlation(found)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="{FONT}" font-size="12">',
        f"<title>{svg_text(' and '.join(found.names))}</title><desc>{svg_text(' '.join(words))}</desc>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        *(f'<text x="16" y="{22 + 17 * at}" fill="{INK}">{svg_text(line)}</text>' for at, line in enumerate(words)),
    ]
    on_top = [(ranks > 0) & (ranks <= top) for ranks in found.ranks[0]]
    for at, headmap in enumerate(found.maps):
        parts.append(f'<g transform="translate({_MARGIN + at * (_SIDE + _GAP):g} {_TOP:g})">')
        parts += _board(headmap, found.names[at], cell, found.bounds[at])
        parts += _marks(on_top[at], on_top[1 - at], columns, cell)
        parts.append("</g>")
    parts.append(f'<g transform="translate({_MARGIN + 2 * (_SIDE + _GAP):g} {_TOP:g})">')
    parts += [*_scatter(found, on_top), "</g>"]
    said = "both maps on one scale" if found.shares_a_scale else "a scale each, since their units differ"
    said = f"Full circle: on top of both; ring: of this map alone; {said}."
    parts.append(f'<text x="16" y="{height - 12:g}" fill="{SOFT}">{said}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _correlation(found: Compared) -> str:
    interval = found.comparison.correlation_interval
    sure = "" if interval is None else f" ({interval.level:.0%} interval {interval.low:+.2f} to {interval.high:+.2f})"
    return f"Rank correlation (Spearman) {found.comparison.correlation:+.2f}{sure}."


def _board(headmap: HeadMap, name: str, cell: np.ndarray, bound: float) -> Iterator[str]:
    wide, high = cell * headmap.values.shape[::-1]
    shades = np.round(_SHADES * np.clip(headmap.values / bound, -1, 1))
    yield f'<text y="-12" font-weight="600" fill="{INK}">{svg_text(name)}</text>'
    yield f'<rect width="{wide:g}" height="{high:g}" fill="{_GROUND}"/>'
    for shade in np.unique(shades[~np.isnan(shades) & (shades != 0)]):
        boxes = "".join(_box(at, cell) for at in np.argwhere(shades == shade))
        yield f'<path fill="{diverging(float(shade) / _SHADES, _GROUND)}" d="{boxes}"/>'
    missing = "".join(_box(at, cell) for at in np.argwhere(np.isnan(shades)))
    if missing:
        dashed = f'fill="{PAPER}" stroke="{HATCH}" stroke-dasharray="2 2"'
        yield f'<path {dashed} d="{missing}"><title>missing</title></path>'
    for dim, last, spot in zip(
        headmap.dims, headmap.values.shape, (f'x="-6" y="{high:g}"', f'x="{wide:g}" y="{high + 14:g}"'), strict=True
    ):
        label = headmap.coords[dim][last - 1]
        yield f'<text {spot} text-anchor="end" fill="{SOFT}">{dim[0].upper()}{svg_text(str(label))}</text>'
    digits = decimals(bound)
    ends = f"{shown(-bound, digits)} to {shown(bound, digits)}, {headmap.units}"
    yield f'<text y="{high + 32:g}" fill="{SOFT}">{svg_text(ends if len(ends) < 52 else ends[:50] + "...")}</text>'


def _box(at: np.ndarray, cell: np.ndarray) -> str:
    row, column = at
    return f"M{column * cell[0]:.1f} {row * cell[1]:.1f}h{cell[0]:.1f}v{cell[1]:.1f}h-{cell[0]:.1f}z"


def _marks(own: np.ndarray, other: np.ndarray, columns: int, cell: np.ndarray) -> Iterator[str]:
    radius = min(4.0, cell.min() / 2.5)
    for at in np.flatnonzero(own):
        x, y = (at % columns + 0.5) * cell[0], (at // columns + 0.5) * cell[1]
        fill = INK if other[at] else PAPER
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius + 1:.1f}" fill="{PAPER}"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" stroke="{INK}" stroke-width="1.5"/>'


def _scatter(found: Compared, on_top: list[np.ndarray]) -> Iterator[str]:
    """Ranks by magnitude on logarithmic axes, the first map's across."""
    most = max(2, int(found.present.sum()))
    ends = f'<rect width="{_SIDE:g}" height="{_SIDE:g}" fill="none" stroke="{LINE}"/>'
    yield f'<text y="-12" font-weight="600" fill="{INK}">Ranks by magnitude, 1 to {most}</text>{ends}'
    for cells, colour, radius in (
        (found.present & ~on_top[0] & ~on_top[1], HATCH, 1.8),
        (on_top[0] ^ on_top[1], SOFT, 3.5),
        (on_top[0] & on_top[1], INK, 4.5),
    ):
        for at in np.flatnonzero(cells):
            x, y = _SIDE * np.log(found.ranks[0][:, at]) / np.log(most)
            yield f'<circle cx="{x:.1f}" cy="{_SIDE - y:.1f}" r="{radius}" fill="{colour}"/>'
    first, second = (svg_text(name) for name in found.names)
    yield f'<text x="{_SIDE / 2:g}" y="{_SIDE + 18:g}" text-anchor="middle" fill="{SOFT}">rank in {first}</text>'
    yield (
        f'<text transform="translate(-10 {_SIDE / 2:g}) rotate(-90)" text-anchor="middle" fill="{SOFT}">'
        f"rank in {second}</text>"
    )
