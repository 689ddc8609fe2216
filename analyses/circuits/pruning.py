"""Pruning edge by edge: an edge goes if the task does not miss it (ACDC, 2304.14997).

Receivers are visited from the logits down, and the senders of each from the last to compute to the first. Each edge is
cut on top of all that were cut before, and stays cut if the metric moves by less than a threshold. The runs are exact,
and cut edges carry the corrupted run's values. The paper measures the KL divergence from the whole model; any metric
serves here (metric="kl" is the paper's), and the threshold is a share of the clean-corrupted difference.
"""

from dataclasses import replace

import numpy as np
from tqdm.auto import tqdm

from headlens.analyses.circuits.ablation import Ablation
from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.metrics import AnyMetric, named
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.wiring import wiring_of


def prune_edges(
    model: Model,
    task: Task,
    threshold: float = 0.01,
    start: Circuit | None = None,
    scores: EdgeMap | None = None,
    metric: AnyMetric | None = None,
    *,
    progress: bool = True,
) -> Circuit:
    """Cut every edge of `start` (None: the whole model) whose loss moves the mean metric by less than the threshold.

    One run for every edge: a model of a few layers, or a start of a few hundred edges, takes minutes. `scores` only go
    with the result. ValueError for a threshold that is not positive.
    """
    if threshold <= 0:
        raise ValueError(f"threshold={threshold} was given; expected a share of the metric's difference above 0.")
    wiring, chosen = wiring_of(model), named(task.metric if metric is None else metric)
    ablated = Ablation(model, task, chosen)
    least = threshold * abs(float(ablated.whole.mean() - ablated.corrupted.mean()))
    circuit = start or Circuit(wiring, wiring.possible)
    value = _mean(ablated, circuit)
    edges = [tuple(edge) for edge in np.argwhere(circuit.kept)]
    edges.sort(key=lambda edge: (-edge[1], -edge[0]))
    for edge in tqdm(edges, unit=" edges", desc=f"pruning {task.name}", disable=not progress):
        if not circuit.kept[edge]:
            continue
        kept = circuit.kept.copy()
        kept[edge] = False
        # an edge whose loss leaves others without an end takes these along
        fewer = replace(circuit, kept=kept).pruned()
        without = _mean(ablated, fewer)
        if abs(value - without) < least:
            circuit, value = fewer, without
    about = {"method": "acdc", "threshold": threshold, "metric": chosen.name}
    return Circuit(
        wiring,
        circuit.kept,
        f"{task.name} by acdc",
        scores=None if scores is None else scores.values,
        provenance={**origin(model, task), **about},
    )


def _mean(ablated: Ablation, circuit: Circuit) -> float:
    return float(ablated.of([circuit]).mean())
