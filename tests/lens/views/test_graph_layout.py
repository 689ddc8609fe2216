"""Where head graphs lie: no box on another, later layers higher, few crossings, and the same every time."""

from functools import cache

import numpy as np
import pytest

from drawn_circuits import drawn_circuit
from headlens.views.edge_paths import PORTS, curve_points
from headlens.views.graph_data import head_graph
from headlens.views.graph_layout import BOX, LEFT, count_crossings, lay_out

SIZES = {
    "few": {"edges": 20},
    "middle": {"edges": 120},
    "wide": {"layers": 3, "heads": 25, "kv_heads": 5, "chosen": 41, "edges": 300},
    "deep": {"layers": 31, "heads": 3, "kv_heads": 1, "chosen": 37, "edges": 500},
}


def roles_of(graph):
    """A group for each head, in the order of no layer; the rest has none."""
    return [f"role {node.head % 3}" if node.kind == "head" else "" for node in graph.nodes]


@cache
def laid_out(size, banded):
    graph = head_graph(drawn_circuit(**SIZES[size]))
    groups = roles_of(graph) if banded else None
    return graph, groups, lay_out(graph, groups)


@pytest.fixture(params=[(size, banded) for size in SIZES for banded in (False, True)], ids=str)
def laid(request):
    """A graph with its layout, over all or in bands."""
    return laid_out(*request.param)


def test_no_two_boxes_overlap_and_all_are_inside(laid):
    _, _, layout = laid
    away = np.abs(layout.nodes[:, None] - layout.nodes[None])
    apart = (away[..., 0] >= BOX[0] + 8) | (away[..., 1] >= BOX[1] + 8)
    assert (apart | np.eye(len(apart), dtype=bool)).all()
    half = np.array(BOX) / 2
    assert (layout.nodes - half >= [LEFT - 1, 0]).all()
    assert (layout.nodes + half <= [layout.width, layout.height]).all()


def test_whoever_reads_lies_higher(laid):
    graph, _, layout = laid
    for edge in graph.edges:
        assert layout.nodes[edge.receiver, 1] < layout.nodes[edge.sender, 1] - BOX[1]
    heights = {}
    for node, (_, y) in zip(graph.nodes, layout.nodes, strict=True):
        heights.setdefault((node.layer, node.kind == "mlp"), set()).add(y)
    assert all(len(each) == 1 for each in heights.values())
    falling = [min(heights[row]) for row in sorted(heights)]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) == len(falling)


def test_layers_are_named_beside_their_rows(laid):
    graph, _, layout = laid
    named = {name: y for name, y in layout.rows if name}
    assert set(named) == {f"L{node.layer}" for node in graph.nodes if node.kind in ("head", "mlp")}
    for node, (_, y) in zip(graph.nodes, layout.nodes, strict=True):
        if node.kind == "head":
            assert abs(named[f"L{node.layer}"] - y) < 1


def test_nodes_of_a_group_share_a_band(laid):
    graph, groups, layout = laid
    if groups is None:
        assert layout.bands == ()
        return
    bounds = {name: (low, high) for name, low, high in layout.bands}
    assert set(bounds) == {group for group in groups if group}
    for group, (x, _) in zip(groups, layout.nodes, strict=True):
        if group:
            assert bounds[group][0] <= x - BOX[0] / 2 and x + BOX[0] / 2 <= bounds[group][1]
    ends = [end for _, *pair in layout.bands for end in pair]
    assert ends == sorted(ends)


def test_edges_go_from_top_to_foot(laid):
    graph, _, layout = laid
    for edge, path in zip(graph.edges, layout.paths, strict=True):
        start, end = layout.nodes[edge.sender], layout.nodes[edge.receiver]
        assert np.array_equal(path[:2], start - [0, BOX[1] / 2])
        assert np.allclose(path[6:], end + [BOX[0] * PORTS.get(edge.port, 0.0), BOX[1] / 2], atol=0.5)
        y = curve_points(path, np.linspace(0, 1, 20))[:, 1]
        assert (np.diff(y) <= 0).all()


def test_queries_keys_and_values_enter_from_left_to_right():
    graph = head_graph(drawn_circuit())
    layout = lay_out(graph)
    ends = {(edge.receiver, edge.port): path[6] for edge, path in zip(graph.edges, layout.paths, strict=True)}
    both = [at for at in range(len(graph.nodes)) if {(at, "q"), (at, "k"), (at, "v")} <= set(ends)]
    assert both and all(ends[at, "q"] < ends[at, "k"] < ends[at, "v"] for at in both)


def test_equal_graphs_have_equal_layouts(laid):
    graph, groups, layout = laid
    again = lay_out(graph, groups)
    assert np.array_equal(layout.nodes, again.nodes) and np.array_equal(layout.paths, again.paths)


def test_ordering_takes_crossings_away(laid):
    graph, groups, layout = laid
    if groups is not None or len(graph.edges) > 300:
        return
    pairs = np.array(sorted({(edge.sender, edge.receiver) for edge in graph.edges}))
    assert layout.crossings == count_crossings(pairs, *layout.nodes.T.astype(float))
    rng = np.random.default_rng(0)
    shuffled = []
    for _ in range(20):
        x = layout.nodes[:, 0].copy()
        for y in np.unique(layout.nodes[:, 1]):
            row = np.flatnonzero(layout.nodes[:, 1] == y)
            x[row] = rng.permutation(x[row])
        shuffled.append(count_crossings(pairs, x, layout.nodes[:, 1]))
    assert layout.crossings <= min(shuffled)


def test_a_tangle_that_can_be_undone_is_undone():
    # three heads of one layer, each read by one of the next layer, in the opposite order
    pairs, y = np.array([[0, 5], [1, 4], [2, 3]]), np.array([2.0, 2, 2, 1, 1, 1])
    assert count_crossings(pairs, np.array([0.0, 1, 2, 0, 1, 2]), y) == 3
    assert count_crossings(pairs, np.array([0.0, 1, 2, 2, 1, 0]), y) == 0
    shared = np.array([[0, 3], [0, 4], [1, 3]])
    assert count_crossings(shared, np.array([0.0, 1, 2, 0, 1, 2]), y) == 1


def test_bends_keep_off_boxes_that_an_edge_does_not_join():
    graph = head_graph(drawn_circuit(edges=40))
    layout = lay_out(graph)
    straight = bent = 0
    for path in layout.paths:
        between = [at for at, (_, y) in enumerate(layout.nodes) if path[7] < y < path[1]]
        plain = path.copy()
        plain[[2, 4]] = path[0], path[6]
        for which in (plain, path):
            points = curve_points(which, np.linspace(0.02, 0.98, 50))
            away = np.abs(points[:, None] - layout.nodes[between])
            hits = ((away < np.array(BOX) / 2).all(-1)).any(0).sum()
            straight, bent = straight + hits * (which is plain), bent + hits * (which is path)
    assert bent < straight / 2
