"""How numbers become colours and widths in picture files, as the pages' style sheets do it in light."""

from html import escape

import numpy as np

PAPER, INK, SOFT, LINE, HATCH = "#ffffff", "#1b1f24", "#525a64", "#b9c0c8", "#8b929b"
NEGATIVE, POSITIVE = "#11457e", "#a8380a"
FONT = "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
# The deepest fill of a box, on which its name still reads.
_DEEPEST = 0.45


def bound_of(scores: np.ndarray) -> float:
    """The largest magnitude, at which a scale symmetric about 0 ends; 1 where there is none."""
    known = np.abs(scores[np.isfinite(scores)])
    return float(known.max(initial=0.0)) or 1.0


def edge_style(score: float, bound: float) -> tuple[str, float]:
    """Colour and width in pixels of an edge; thin and grey where the score is unknown."""
    if not np.isfinite(score):
        return LINE, 1.0
    share = min(1.0, abs(score) / bound)
    return mixed(_end(score), 0.3 + 0.7 * share), round(1.0 + 4.0 * share, 2)


def node_fill(score: float, bound: float) -> str:
    """Colour of a box; paper where the score is unknown."""
    return mixed(_end(score), _DEEPEST * min(1.0, abs(score) / bound)) if np.isfinite(score) else PAPER


def diverging(share: float, ground: str = PAPER) -> str:
    """A colour of the scale that is symmetric about 0, for -1 to 1."""
    return mixed(_end(share), min(1.0, abs(share)), ground)


def mixed(colour: str, share: float, ground: str = PAPER) -> str:
    """A share of a colour on the ground, in sRGB."""
    parts = [
        (int(one[at : at + 2], 16), int(two[at : at + 2], 16)) for one, two in [(colour, ground)] for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{round(share * top + (1 - share) * under):02x}" for top, under in parts)


def svg_text(text: str) -> str:
    """Text that XML can hold: without control characters, which no escape makes legal."""
    return escape("".join(mark for mark in text if mark.isprintable()))


def _end(score: float) -> str:
    return NEGATIVE if score < 0 else POSITIVE
