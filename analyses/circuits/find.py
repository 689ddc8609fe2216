"""Finding a circuit: from a sweep over heads, from edge attribution, or by pruning edges one by one.

- "sweep": the heads that matter most in either direction, sum of |denoising| and |noising| effects, and all edges among
  them and the MLPs. Denoising finds what is enough, noising what is needed (2404.15255).
- "eap", "eap_ig": the edges of largest attributed effect (2310.10348, 2403.17806), without dead ends.
- "acdc": every edge whose loss costs more than a threshold, in the order of 2304.14997; see `pruning`.

No method is right by construction: `Circuit.evaluate` on other prompts says what a circuit keeps.
"""

from dataclasses import replace

import numpy as np

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.circuits.pruning import prune_edges
from headlens.analyses.edges.edge_attribution import attribute_edges
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.metrics import AnyMetric
from headlens.analyses.patching import patch_sweep
from headlens.analyses.provenance import origin
from headlens.analyses.stability import strongest
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.nearest import did_you_mean
from headlens.hooks.sites import Head
from headlens.hooks.wiring import Wiring, wiring_of

METHODS = ("sweep", "eap", "eap_ig", "acdc")
# Heads of a circuit of heads, and edges of one of edges.
HEADS, EDGES = 30, 200
# Gradients that EAP-IG averages: the authors' README has 5.
STEPS = 5


def find_circuit(
    model: Model,
    task: Task,
    method: str = "sweep",
    size: int | None = None,
    metric: AnyMetric | None = None,
    *,
    threshold: float = 0.01,
    progress: bool = True,
) -> Circuit:
    """Find a circuit for a task.

    Args:
        method: "sweep" (a circuit of heads and all MLPs), "eap", "eap_ig" or "acdc" (a circuit of edges).
        size: how many heads ("sweep", 30 by default), or how many edges before dead ends are taken off ("eap" and
            "eap_ig", 200). "acdc" starts from so many edges of largest attributed effect, or from all of them.
        threshold: for "acdc", the share of the clean-corrupted difference that losing an edge must cost.

    Returns:
        A Circuit, whose scores are what nodes or edges were chosen by: fractions of the clean-corrupted difference,
        positive where they carry the clean behaviour ("sweep": the sum of both directions' magnitudes).

    Raises:
        ValueError: for an unknown method, a size below 1, and whatever the sweep or the attribution refuses.
    """
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise ValueError(f"Unknown method {method!r}{hint}; give {', '.join(METHODS[:-1])} or {METHODS[-1]}.")
    if size is not None and size < 1:
        raise ValueError(f"size={size} was given; expected how many heads or edges the circuit has, at least 1.")
    name = f"{task.name} by {method}"
    if method == "sweep":
        return _of_sweeps(model, task, HEADS if size is None else size, metric, name, progress)
    steps = STEPS if method == "eap_ig" else 1
    edges = attribute_edges(model, task, metric, steps=steps, progress=progress)
    if method == "acdc":
        start = None if size is None else circuit_of_edges(edges, size, name)
        return prune_edges(model, task, threshold, start, edges, metric, progress=progress)
    return circuit_of_edges(edges, EDGES if size is None else size, name)


def circuit_of_edges(edges: EdgeMap, size: int, name: str = "circuit") -> Circuit:
    """The `size` edges of largest magnitude, without dead ends. ValueError for a size below 1."""
    if size < 1:
        raise ValueError(f"size={size} was given; expected how many edges the circuit has, at least 1.")
    kept = np.zeros(edges.values.size, bool)
    chosen = strongest(edges.values.reshape(1, -1), size)[0]
    kept[chosen] = ~np.isnan(edges.values.reshape(-1)[chosen])
    provenance = {**edges.provenance, "size": size}
    return Circuit(
        edges.wiring, kept.reshape(edges.values.shape), name, scores=edges.values, provenance=provenance
    ).pruned()


def circuit_of_heads(wiring: Wiring, scores: np.ndarray, size: int) -> Circuit:
    """The `size` heads of largest magnitude in scores [layer, head], and all edges among them and the MLPs."""
    chosen = strongest(scores.reshape(1, -1), size)[0]
    return Circuit.of_nodes(wiring, [Head(*divmod(int(at), wiring.n_heads)) for at in chosen])


def _of_sweeps(model: Model, task: Task, size: int, metric: AnyMetric | None, name: str, progress: bool) -> Circuit:
    """The heads of largest effect in both directions together."""
    effects = [
        patch_sweep(model, task, metric=metric, direction=direction, progress=progress).values
        for direction in ("denoising", "noising")
    ]
    scores, wiring = np.abs(effects).sum(0), wiring_of(model)
    of_nodes = [scores[node.layer, node.head] if node.kind == "head" else np.nan for node in wiring.senders]
    about = {"name": name, "node_scores": np.array(of_nodes), "provenance": {**origin(model, task), "method": "sweep"}}
    return replace(circuit_of_heads(wiring, scores, size), **about)
