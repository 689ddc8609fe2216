"""A circuit as a networkx graph, and as the files that graph tools read: GraphML and node-link JSON.

Nodes are "embed", "L3H1", "MLP3" and "logits", with kind, layer, head, role and score. Edges are keyed by what they
reach: q, k or v of a head, mlp, or logits. A key or value that several query heads share is an edge to each of those in
the circuit, with the key/value head as `kv_head`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from headlens.analyses.atomic import write_bytes
from headlens.analyses.circuits.circuit import Circuit
from headlens.hooks.wiring import LOGITS, Node, Wiring


def to_networkx(circuit: Circuit) -> nx.MultiDiGraph:
    """The circuit without its dead ends; edges have `score` where it is known."""
    circuit, wiring = circuit.pruned(), circuit.wiring
    graph = nx.MultiDiGraph(
        name=circuit.name, n_heads=wiring.n_heads, n_kv_heads=wiring.n_kv_heads, mlps=",".join(wiring.mlps)
    )
    order = {node: at for at, node in enumerate(wiring.senders)}
    for node in circuit.nodes:
        about: dict[str, Any] = {"kind": node.kind, "layer": node.layer, "head": node.head}
        if circuit.node_scores is not None and np.isfinite(circuit.node_scores[order[node]]):
            about["score"] = float(circuit.node_scores[order[node]])
        if str(node) in circuit.roles:
            about["role"] = circuit.roles[str(node)]
        graph.add_node(str(node), **about)
    graph.add_node(LOGITS, kind=LOGITS, layer=wiring.n_layers, head=-1)
    inside = {*circuit.nodes}
    for row, column in np.argwhere(circuit.kept):
        sender, receiver = wiring.senders[row], wiring.receivers[column]
        about = {} if receiver.kind not in ("k", "v") else {"kv_head": receiver.head}
        if circuit.scores is not None and np.isfinite(circuit.scores[row, column]):
            about["score"] = float(circuit.scores[row, column])
        for reached in _reached(wiring, receiver):
            if reached in inside or reached.kind == LOGITS:
                graph.add_edge(str(sender), str(reached), key=receiver.kind, **about)
    return graph


def from_networkx(graph: nx.MultiDiGraph) -> Circuit:
    """The circuit of a graph that `to_networkx` made, or one like it. ValueError says what does not fit."""
    sizes = graph.graph
    missing = {"n_heads", "n_kv_heads", "mlps"} - {*sizes}
    if missing:
        raise ValueError(f"The graph does not say {', '.join(sorted(missing))} of its model; set graph.graph[...].")
    wiring = Wiring(int(sizes["n_heads"]), int(sizes["n_kv_heads"]), tuple(str(sizes["mlps"]).split(",")))
    rows, columns = ({str(node): at for at, node in enumerate(side)} for side in (wiring.senders, wiring.receivers))
    kept = np.zeros(wiring.possible.shape, bool)
    scores, node_scores = np.full(kept.shape, np.nan, np.float32), np.full(len(rows), np.nan, np.float32)
    for sender, reached, key, about in graph.edges(keys=True, data=True):
        receiver = _receiver(wiring, str(reached), str(key))
        if sender not in rows or receiver not in columns:
            raise ValueError(f"The edge {sender} -> {reached} ({key}) is not one of this model's.")
        kept[rows[sender], columns[receiver]] = True
        scores[rows[sender], columns[receiver]] = about.get("score", np.nan)
    for node, about in graph.nodes(data=True):
        if node in rows:
            node_scores[rows[node]] = about.get("score", np.nan)
    roles = {node: about["role"] for node, about in graph.nodes(data=True) if "role" in about}
    return Circuit(wiring, kept, str(sizes.get("name", "circuit")), scores, node_scores, roles)


def write_graphml(circuit: Circuit, path: str | Path) -> None:
    """Write GraphML, atomically."""
    text = "\n".join(nx.generate_graphml(to_networkx(circuit)))
    write_bytes(Path(path), text.encode())


def write_node_link(circuit: Circuit, path: str | Path) -> None:
    """Write networkx's node-link JSON ("nodes", "edges"), which D3 and others draw, atomically."""
    data = nx.node_link_data(to_networkx(circuit), edges="edges")
    write_bytes(Path(path), json.dumps(data, indent=1).encode())


def read_node_link(path: str | Path) -> Circuit:
    """The circuit of a file that `write_node_link` wrote."""
    try:
        graph = nx.node_link_graph(json.loads(Path(path).read_text()), edges="edges")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a graph in node-link JSON ({error}).") from error
    return from_networkx(graph)


def read_graphml(path: str | Path) -> Circuit:
    """The circuit of a file that `write_graphml` wrote."""
    try:
        graph = nx.read_graphml(Path(path), force_multigraph=True)
    except (nx.NetworkXError, SyntaxError) as error:
        raise ValueError(f"{path} is not GraphML ({error}).") from error
    return from_networkx(graph)


def _reached(wiring: Wiring, receiver: Node) -> Iterator[Node]:
    """The nodes that a receiver's input goes into."""
    if receiver.kind == LOGITS:
        yield receiver
    column = wiring.receivers.index(receiver)
    yield from (wiring.senders[at] for at in np.flatnonzero(wiring.feeds[column]))


def _receiver(wiring: Wiring, reached: str, key: str) -> str:
    """The receiver's name of an edge to a node, by its key."""
    if key == "q":
        return f"{reached}.q"
    if key in ("k", "v") and reached.startswith("L") and "H" in reached:
        layer, head = reached[1:].split("H")
        return f"L{layer}KV{wiring.group(int(head))}.{key}"
    return reached
