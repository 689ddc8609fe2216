"""When is a sweep sure enough? Which cells are still undecided, for a sweep that adds prompts only where they matter.

A cell is decided about a line (an absolute effect, such as 0.05) once its whole interval lies on one side of +line and
on one side of -line. Looking again after every few prompts gives chance more than one try, so each look spends a share
of the error: `level_per_look`.
"""

import math

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.uncertainty import RESAMPLES, ratio_interval

# Resamples beyond each bound; fewer would leave the bound to chance at the high levels of many looks.
_BEYOND = 20


def undecided(headmap: HeadMap, line: float, level: float = 0.95, seed: int = 0) -> np.ndarray:
    """Which cells' intervals at `level` still cross +line or -line, as booleans of the map's shape.

    With line=0: which ones' sign is open. Touching a line is not crossing it. A missing cell has nothing to decide, and
    one that only a single template has is open.

    The level holds for each cell by itself, and percentile intervals of few templates are somewhat narrow: have about
    ten templates before the first look.

    Raises:
        ValueError: for a negative line, a level not between 0 and 1, or a map without samples of two prompts or more.
    """
    if not line >= 0:
        raise ValueError(f"line={line} was given; expected the size of an effect, 0 or more.")
    level = _checked(level)
    if headmap.samples is None or headmap.scale is None:
        raise ValueError(f"The map {headmap.name!r} keeps no samples, so nothing says how sure it is.")
    resamples = max(RESAMPLES, math.ceil(2 * _BEYOND / (1 - level)))
    interval = ratio_interval(headmap.samples, headmap.scale, headmap.clusters, level, resamples, seed)
    crossed = [(interval.low < at) & (at < interval.high) for at in (line, -line)]
    open_ended = np.isnan(interval.low) & ~np.isnan(headmap.values)
    return crossed[0] | crossed[1] | open_ended


def level_per_look(level: float, looks: int) -> float:
    """The level of each of `looks` intervals of a cell, so that all of them hold together at `level` (Bonferroni).

    ValueError for a level not between 0 and 1, or looks < 1.
    """
    if looks < 1:
        raise ValueError(f"looks={looks} was given; expected how often the map is looked at, at least 1.")
    return 1 - (1 - _checked(level)) / looks


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level={level} was given; an interval's level lies between 0 and 1, such as 0.95.")
    return level
