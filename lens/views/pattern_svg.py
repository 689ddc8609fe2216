"""A head's attention as SVG that needs no style sheet: for where a notebook is only read."""

from collections.abc import Sequence

import numpy as np

from headlens.views.graph_style import FONT, INK, PAPER, SOFT, svg_text
from headlens.views.map_svg import shaded

# Positions of a block, each way, as the widget draws.
BLOCK = 64
_ROOM, _SIDE, _LETTERS = 84.0, 448.0, 12


def pattern_svg(pattern: np.ndarray | None, tokens: Sequence[str], name: str, corner: Sequence[int]) -> str:
    """The block of a pattern [query, key] that begins at `corner`; deeper colour is more attention, by its root.

    None, before a head is chosen, is said in words.
    """
    size = min(BLOCK, len(tokens))
    query, key = (max(0, min(at, len(tokens) - size)) for at in corner)
    side = min(_SIDE / size, 28.0)
    span = max(_ROOM + size * side + 16, 380.0)
    title = f"Attention of {name}" if name else "Attention"
    said = "Rows read, columns are read." if pattern is not None else "Choose a head to see where it reads."
    if len(tokens) > size:
        said += f" Positions {query} and {key} onwards of {len(tokens)}."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {span:g} {span + 48:g}" width="{span:g}" '
        f'height="{span + 48:g}" role="img" font-family="{FONT}" font-size="{min(12.0, max(7.0, side)):g}">',
        f"<title>{svg_text(title)}</title><desc>{svg_text(said)}</desc>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<text x="16" y="24" font-size="16" font-weight="600" fill="{INK}">{svg_text(title)}</text>',
        f'<text x="16" y="42" font-size="12" fill="{SOFT}">{svg_text(said)}</text>',
    ]
    if pattern is not None:
        block = pattern[query : query + size, key : key + size].astype(np.float64)
        parts.append(f'<g transform="translate({_ROOM:g} {_ROOM + 48:g})">')
        parts.append(f'<rect width="{size * side:g}" height="{size * side:g}" fill="#f0efec"/>')
        parts += shaded(np.sqrt(np.clip(block, 0, 1)), (side, side))
        for at in range(0, size, max(1, int(np.ceil(8 / side)))):
            middle = (at + 0.5) * side
            row, column = (svg_text(tokens[start + at][:_LETTERS]) for start in (query, key))
            parts.append(f'<text x="-5" y="{middle + 4:g}" text-anchor="end" fill="{SOFT}">{row}</text>')
            turned = f'transform="translate({middle + 4:g} -5) rotate(-90)"'
            parts.append(f'<text {turned} fill="{SOFT}">{column}</text>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"
