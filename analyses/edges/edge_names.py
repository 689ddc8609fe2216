"""Edges by the names of their ends: ("L3H1", "L5H2.q"), ("embed", "MLP0"), ("MLP3", "logits")."""

from collections.abc import Sequence

from headlens.hooks.edges.edge_patches import Edge
from headlens.hooks.nearest import did_you_mean
from headlens.hooks.wiring import Node, Wiring


def edges_named(wiring: Wiring, edges: Sequence[tuple[str, str]]) -> tuple[Edge, ...]:
    """The edges of these names.

    A key or value that query heads share may be named by any of them: L5H2.k is L5KV0.k where heads 0 to 2 read it.
    ValueError for none, for a name of no node, and for a receiver that does not read its sender.
    """
    if isinstance(edges, str) or not len(edges):
        raise ValueError(
            f"Edges {edges!r} were given; expected pairs such as [('L3H1', 'L5H2.q'), ('MLP3', 'logits')]."
        )
    senders = {str(node): node for node in wiring.senders}
    receivers = _receivers(wiring)
    found = []
    for edge in edges:
        if isinstance(edge, str) or len(edge) != 2:
            raise ValueError(f"The edge {edge!r} was given; expected a pair such as ('L3H1', 'L5H2.q').")
        sender, receiver = (_named(*each) for each in (("sender", edge[0], senders), ("receiver", edge[1], receivers)))
        if not wiring.reads(receiver, sender):
            raise ValueError(f"There is no edge {edge[0]} -> {edge[1]}: {edge[1]} does not read what {edge[0]} writes.")
        found.append(Edge(sender, receiver))
    return tuple(found)


def _receivers(wiring: Wiring) -> dict[str, Node]:
    """Every receiver by its own name, and by that of each query head."""
    found = {str(node): node for node in wiring.receivers}
    for node in wiring.senders:
        if node.kind == "head":
            for kind in ("k", "v"):
                found[f"{node}.{kind}"] = Node(kind, node.layer, wiring.group(node.head))
    return found


def _named(what: str, name: str, known: dict[str, Node]) -> Node:
    if name not in known:
        raise ValueError(
            f"There is no {what} {name!r}{did_you_mean(str(name), known)}; names are such as "
            f"{'embed, L3H1 and MLP3' if what == 'sender' else 'L5H2.q, L5KV0.k, L5KV0.v, MLP3 and logits'}."
        )
    return known[name]
