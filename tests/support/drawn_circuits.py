"""Circuits of given sizes for pictures: scores drawn by lot, a few roles, and keys that query heads share."""

import numpy as np

from headlens.analyses.circuits.circuit import Circuit
from headlens.hooks.wiring import Wiring


def drawn_circuit(layers=7, heads=6, kv_heads=3, chosen=15, edges=120, seed=0, scored=True, **fields):
    """A circuit among `chosen` heads and two MLPs, of about so many of its edges by magnitude."""
    rng = np.random.default_rng(seed)
    wiring = Wiring(heads, kv_heads, ("after",) * layers)
    inside = {divmod(int(at), heads) for at in rng.choice(layers * heads, chosen, replace=False)}
    groups = {(layer, wiring.group(head)) for layer, head in inside}
    mlps = {0, layers - 2}

    def belongs(node):
        if node.kind in ("head", "q"):
            return (node.layer, node.head) in inside
        return (
            (node.layer, node.head) in groups if node.kind in ("k", "v") else node.kind != "mlp" or node.layer in mlps
        )

    senders, receivers = (np.array([belongs(node) for node in side]) for side in (wiring.senders, wiring.receivers))
    possible = wiring.possible & senders[:, None] & receivers[None]
    scores = np.where(possible, rng.standard_t(2, possible.shape) * 0.02, np.nan)
    order = np.argsort(-np.where(possible, np.abs(scores), -1).reshape(-1), kind="stable")[:edges]
    kept = np.zeros(possible.size, bool)
    kept[order] = True
    of_nodes = np.array([rng.normal() if node.kind == "head" else np.nan for node in wiring.senders])
    given = {"scores": scores if scored else None, "node_scores": of_nodes, **fields}
    return Circuit(wiring, kept.reshape(possible.shape) & possible, "drawn", **given).pruned()
