"""Where the nodes and edges of a head graph lie: the same places for the page, the SVG and the PNG.

Nodes that compute at the same time share a row, later rows lie higher. Within a row the order follows the barycentres
of the neighbours, sweeping up and down (Sugiyama, Tagawa and Toda 1981), and of all sweeps the one with the fewest
crossings is kept; then nodes of a row change places as long as that takes crossings away. Long edges have no places of
their own in the rows between, since in a transformer every layer reads every earlier one: they bend around the boxes
instead. Nothing is drawn by lot: equal graphs have equal layouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from headlens.views.edge_paths import edge_paths
from headlens.views.graph_data import HeadGraph

# Pixels: a node's box, from the middle of one to the next in a row (at least, and where there is room), from a row of
# heads to that of the same layer's MLP and to the next layer, and the room around everything, layer names on the left.
BOX = (64.0, 26.0)
PITCH, WIDEST = 80.0, 132.0
TO_MLP, TO_LAYER = 46.0, 62.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 24.0, 24.0
BAND_GAP, BAND_ROOM = 28.0, 26.0
# A graph without bands is at least so wide, so that long edges have room beside the boxes.
_ROOM = (560.0, 1.2)
_SWEEPS = 12
# How often all rows are gone through for exchanges, and up to which length any two of a row are tried.
_ROUNDS, _SHORT = 6, 6
# Crossings are counted among so many of the strongest edges: their number grows with the square.
_COUNTED = 700


@dataclass(frozen=True, eq=False)
class Layout:
    """Middles of the nodes [node, xy] with y downwards, and edges as cubic curves [edge, 8].

    `rows` are (name, y) and `bands` (name, from x, to x), none without groups.
    """

    nodes: np.ndarray
    paths: np.ndarray
    rows: tuple[tuple[str, float], ...]
    bands: tuple[tuple[str, float, float], ...]
    width: float
    height: float
    crossings: int


def lay_out(graph: HeadGraph, groups: Sequence[str] | None = None) -> Layout:
    """The layout of a graph; with `groups`, a name for each node, nodes of a group share a band from left to right.

    Bands stand in the order of their nodes' mean layer. The embedding and the logits (group "") span all of them.
    """
    level, rows, height = _levels(graph, TOP + (0.0 if groups is None else BAND_ROOM))
    y = np.array([rows[at][1] for at in level])
    names = [""] * len(graph.nodes) if groups is None else [*groups]
    band, bounds = _bands(graph, level, names)
    pairs = np.array(sorted({(edge.sender, edge.receiver): None for edge in graph.edges[:_COUNTED]}))
    x, crossings = _ordered(pairs, level, y, band, bounds)
    nodes = np.stack([x, y], 1).round()
    drawn = [(name, *bounds[at]) for at, name in enumerate(_band_names(graph, names)) if name]
    width = float(max(high for _, high in bounds) + RIGHT)
    return Layout(nodes, edge_paths(graph, nodes, BOX, (LEFT, width)), rows, tuple(drawn), width, height, crossings)


def count_crossings(pairs: np.ndarray, x: np.ndarray, y: np.ndarray) -> int:
    """How many of the straight lines [pair, (from, to)] cross, but for those that share an end."""
    return int(np.triu(_cross(pairs, pairs, np.stack([x, y], 1)), 1).sum())


def _cross(some: np.ndarray, others: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which of some lines cross which of others, as [one, other]."""
    of_some, of_others = _sides(some, points), _sides(others, points)
    # the ends of each line on both sides of the other; an end that both share lies on neither
    apart = of_some[:, others[:, 0]] * of_some[:, others[:, 1]] < 0
    asunder = of_others[:, some[:, 0]] * of_others[:, some[:, 1]] < 0
    return apart & asunder.T


def _sides(lines: np.ndarray, points: np.ndarray) -> np.ndarray:
    """On which side of each line each point lies, as [line, point]: -1, 0 or 1."""
    start, along = points[lines[:, 0]], points[lines[:, 1]] - points[lines[:, 0]]
    to = points[None] - start[:, None]
    return np.sign((along[:, None, 0] * to[..., 1] - along[:, None, 1] * to[..., 0]).round(6)).astype(np.int8)


def _levels(graph: HeadGraph, top: float) -> tuple[np.ndarray, tuple[tuple[str, float], ...], float]:
    """The row of each node, the rows' names and y from the lowest up, and the height of all."""
    keys = [(node.layer, node.kind == "mlp") for node in graph.nodes]
    rows = sorted(set(keys))
    steps = [TO_MLP if mlp and row[0] == before[0] else TO_LAYER
             for before, row in zip(rows, rows[1:], strict=False) for mlp in [row[1]]]  # fmt: skip
    up = np.concatenate([[0.0], np.cumsum(steps)])
    y = top + BOX[1] / 2 + up[-1] - up
    kinds = {key: node.kind for key, node in zip(keys, graph.nodes, strict=True)}
    names = []
    for at, (layer, mlp) in enumerate(rows):
        shown = kinds[layer, mlp] in ("head", "mlp") and not (mlp and at and rows[at - 1][0] == layer)
        names.append(f"L{layer}" if shown else "")
    return (
        np.array([rows.index(key) for key in keys]),
        tuple(zip(names, y, strict=True)),
        float(y[0] + BOX[1] / 2 + BOTTOM),
    )


def _band_names(graph: HeadGraph, names: Sequence[str]) -> list[str]:
    """The bands from left to right. Without groups there is one, without a name."""
    members: dict[str, list[int]] = {}
    for node, name in zip(graph.nodes, names, strict=True):
        if name:
            members.setdefault(name, []).append(node.layer)
    return sorted(members, key=lambda name: (np.mean(members[name]), name)) or [""]


def _bands(graph: HeadGraph, level: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The band of each node (-1: none, spans all), and where each band begins and ends."""
    order = _band_names(graph, names)
    band = np.array([order.index(name) if name in order else -1 for name in names])
    bounds, at = [], LEFT
    for one in range(len(order)):
        fullest = np.bincount(level[band == one], minlength=1).max()
        # the heading of a band needs room too
        least = max(_ROOM[0], _ROOM[1] * fullest * PITCH) if order == [""] else 7.0 * len(order[one]) + 16
        wide = max(fullest * PITCH, least)
        bounds.append((at, at + wide))
        at += wide + BAND_GAP
    return band, bounds


def _ordered(
    pairs: np.ndarray, level: np.ndarray, y: np.ndarray, band: np.ndarray, bounds: list[tuple[float, float]]
) -> tuple[np.ndarray, int]:
    """The x of every node that makes the fewest crossings found, and their number."""
    x = np.zeros(len(level))
    whole = (bounds[0][0], bounds[-1][1])
    cells = sorted({(int(row), int(one)) for row, one in zip(level, band, strict=True)})
    members = {cell: np.flatnonzero((level == cell[0]) & (band == cell[1])) for cell in cells}

    def room(cell: tuple[int, int]) -> tuple[float, float]:
        return whole if cell[1] < 0 else bounds[cell[1]]

    for cell, inside in members.items():
        middle = sum(room(cell)) / 2
        x[inside] = _apart(np.full(len(inside), middle), *room(cell))
    below, above = (_means(pairs, side, len(level)) for side in (1, 0))
    best = (count_crossings(pairs, x, y), _length(pairs, x), x.copy())
    for sweep in range(2 * _SWEEPS):
        upwards = sweep % 2 == 0
        for cell in cells if upwards else reversed(cells):
            inside = members[cell]
            # the last sweeps look both ways, which shortens what has been put in order
            looks = [below, above] if sweep >= 2 * _SWEEPS - 4 else [below if upwards else above]
            wished = _wishes(looks, x, inside)
            order = np.lexsort((inside, x[inside], wished.round(6)))
            x[inside[order]] = _apart(wished[order], *room(cell))
        found = (count_crossings(pairs, x, y), _length(pairs, x), x.copy())
        best = min(best, found, key=lambda one: one[:2])
    x = _exchanged(pairs, np.stack([best[2], y], 1), list(members.values()))
    return x, count_crossings(pairs, x, y)


def _exchanged(pairs: np.ndarray, points: np.ndarray, rows: list[np.ndarray]) -> np.ndarray:
    """The x of every node after exchanging two of a row (of a long row, neighbours) while that takes crossings away.

    Barycentres see where the neighbours are but not what a long edge crosses on its way.
    """
    for _ in range(_ROUNDS):
        before = points.copy()
        for row in rows:
            order = row[np.argsort(points[row, 0])]
            for one, other in combinations(order, 2) if len(order) <= _SHORT else pairwise(order):
                own = pairs[np.isin(pairs, (one, other)).any(1)]
                now = int(_cross(own, pairs, points).sum())
                points[[one, other], 0] = points[[other, one], 0]
                if int(_cross(own, pairs, points).sum()) >= now:
                    points[[one, other], 0] = points[[other, one], 0]
        if np.array_equal(before, points):
            break
    return points[:, 0]


def _means(pairs: np.ndarray, side: int, n: int) -> np.ndarray:
    """A matrix [node, neighbour] of ones: the neighbours on one side (1: those a node reads, 0: those that read it)."""
    matrix = np.zeros((n, n))
    matrix[pairs[:, side], pairs[:, 1 - side]] = 1.0
    return matrix


def _wishes(looks: list[np.ndarray], x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Where the neighbours of these nodes would have them; a node without any stays."""
    weights = np.sum([look[inside] for look in looks], axis=0)
    total = weights.sum(1)
    return np.where(total > 0, weights @ x / np.maximum(total, 1.0), x[inside])


def _apart(wished: np.ndarray, low: float, high: float) -> np.ndarray:
    """Places in the order given, at least a pitch apart and inside the room, as near the wishes as can be.

    Least squares: an isotonic regression of the wishes less their own places, by pooling neighbours that disagree.
    """
    pitch = min(max(PITCH, (high - low) / len(wished)), WIDEST)
    steps = pitch * np.arange(len(wished))
    pools: list[list[float]] = []
    for value in wished - steps:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, n), (other, m) = pools[-2:]
            pools[-2:] = [[(one * n + other * m) / (n + m), n + m]]
    level = np.concatenate([np.full(int(n), value) for value, n in pools])
    return np.clip(level, low + PITCH / 2, high - PITCH / 2 - steps[-1]) + steps


def _length(pairs: np.ndarray, x: np.ndarray) -> float:
    return float(np.abs(x[pairs[:, 0]] - x[pairs[:, 1]]).sum())
