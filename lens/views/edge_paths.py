"""The curves of a head graph's edges: out of a box's top, around the boxes between, into the next box's foot."""

import numpy as np

from headlens.views.graph_data import HeadGraph

# Where an edge enters a box, as a share of its width from the middle: a head is entered as query, key or value.
PORTS = {"q": -0.3, "k": 0.0, "v": 0.3}
# How far a curve may bend to one side, in pixels, in the order in which bends are tried.
_BENDS = np.array([0.0] + [side * step for step in (45, 80, 115, 150, 200, 260, 330) for side in (1, -1)])
# What it costs to pass behind a box, or to leave the picture, in pixels of bend.
_HIDDEN, _OUTSIDE = 130.0, 2000.0
_SAMPLES = np.linspace(0.04, 0.96, 23)
# A curve keeps this far from a box that it does not belong to.
_AIR = 4.0
# Beyond so many edges the picture is a texture, and bends cost time.
_BENT = 1500


def edge_paths(graph: HeadGraph, nodes: np.ndarray, box: tuple[float, float], sides: tuple[float, float]) -> np.ndarray:
    """Cubic curves [edge, (x, y) of the start, two control points and the end] between two sides, in whole pixels."""
    paths = np.zeros((len(graph.edges), 8))
    for at, edge in enumerate(graph.edges):
        start = nodes[edge.sender] - (0, box[1] / 2)
        end = nodes[edge.receiver] + (box[0] * PORTS.get(edge.port, 0.0), box[1] / 2)
        lean = max(0.45 * (start[1] - end[1]), 8.0)
        paths[at] = [*start, start[0], start[1] - lean, end[0], end[1] + lean, *end]
        between = nodes[(nodes[:, 1] < start[1] - 1) & (nodes[:, 1] > end[1] + 1)]
        if len(between) and at < _BENT:
            paths[at, [2, 4]] += _bend(paths[at], between, box, sides)
    return paths.round()


def curve_points(path: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Points [..., share, xy] on curves [..., 8]."""
    t = shares[:, None]
    corners = path.reshape(*path.shape[:-1], 4, 1, 2)
    first, second, third, last = (corners[..., at, :, :] for at in range(4))
    return (1 - t) ** 3 * first + 3 * (1 - t) ** 2 * t * second + 3 * (1 - t) * t**2 * third + t**3 * last


def _bend(path: np.ndarray, boxes: np.ndarray, box: tuple[float, float], sides: tuple[float, float]) -> float:
    """The bend that costs least: itself, and what the curve runs into."""
    curves = np.repeat(path[None], len(_BENDS), 0)
    curves[:, [2, 4]] += _BENDS[:, None]
    points = curve_points(curves, _SAMPLES)
    away = np.abs(points[:, :, None] - boxes)
    hidden = ((away[..., 0] < box[0] / 2 + _AIR) & (away[..., 1] < box[1] / 2 + 1)).any(1).sum(1)
    outside = ((points[..., 0] < sides[0]) | (points[..., 0] > sides[1])).any(1)
    return float(_BENDS[np.argmin(np.abs(_BENDS) + _HIDDEN * hidden + _OUTSIDE * outside)])
