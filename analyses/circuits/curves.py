"""How much of a task circuits of every size keep: the curve, and the two areas that MIB scores methods by (2504.13151).

Circuits of growing size are taken from one ranking. CPR, the area under the faithfulness f, is large where a ranking
puts first what carries the task. CMD, the area between f and 1, is small where circuits behave like the model; what
helps too much counts against it. Both are over the share of edges (or heads) from 0 to 1, by trapezoids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.circuits.ablation import Ablation
from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.circuits.find import circuit_of_edges, circuit_of_heads
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric, named
from headlens.analyses.provenance import origin
from headlens.analyses.sweep_map import SMALLEST_SCALE
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.wiring import wiring_of

if TYPE_CHECKING:
    import pandas

# MIB's sizes, as shares of all edges.
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness [size] of circuits that hold `shares` [size] of all edges or heads, from none (0) to all (1)."""

    shares: np.ndarray
    counts: np.ndarray
    faithfulness: np.ndarray
    unit: str
    provenance: dict[str, Any]

    @property
    def cpr(self) -> float:
        """The area under the curve: larger is better."""
        return float(np.trapezoid(self.faithfulness, self.shares))

    @property
    def cmd(self) -> float:
        """The area between the curve and 1: smaller is better."""
        return float(np.trapezoid(np.abs(1 - self.faithfulness), self.shares))

    def to_frame(self) -> "pandas.DataFrame":
        """One row per size: share, count, faithfulness."""
        import pandas

        return pandas.DataFrame({"share": self.shares, self.unit: self.counts, "faithfulness": self.faithfulness})


def faithfulness_curve(
    model: Model,
    task: Task,
    ranking: EdgeMap | HeadMap,
    ablation: str = "other",
    metric: AnyMetric | None = None,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    progress: bool = True,
) -> Curve:
    """The curve of the edges of largest magnitude in an EdgeMap, or of the heads in a HeadMap of (layer, head).

    Circuits of edges are taken without their dead ends, which do not change what they keep of the corrupted run. With
    nothing left every edge is ablated, or every head.

    Raises:
        ValueError: for shares that are not between 0 and 1, a ranking of another model, and as `evaluate`.
    """
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares={tuple(shares)} were given; expected shares between 0 and 1, without the ends.")
    wiring, chosen = wiring_of(model), named(task.metric if metric is None else metric)
    of_edges = isinstance(ranking, EdgeMap)
    total = int(np.isfinite(ranking.values).sum())
    expected = wiring.possible.shape if of_edges else (wiring.n_layers, wiring.n_heads)
    if ranking.values.shape != expected:
        raise ValueError(f"The ranking is of shape {ranking.values.shape}; {model.name!r} has {expected}.")
    counts = sorted({min(total, max(1, round(share * total))) for share in shares})
    if isinstance(ranking, EdgeMap):
        nothing = Circuit(wiring, np.zeros_like(wiring.possible))
        circuits = [circuit_of_edges(ranking, count) for count in counts]
    else:
        nothing = Circuit.of_nodes(wiring, ())
        circuits = [circuit_of_heads(wiring, ranking.values, count) for count in counts]
    ablated = Ablation(model, task, chosen, ablation, seed)
    values = ablated.of([nothing, *circuits], progress).mean(1)
    empty, whole = float(values[0]), float(ablated.whole.mean())
    if abs(whole - empty) < SMALLEST_SCALE:
        raise ValueError(f"On task {task.name!r} the {chosen.name} is the same with nothing left of the model.")
    sizes = np.array([0, *counts, total])
    return Curve(
        shares=sizes / total,
        counts=sizes,
        faithfulness=(np.array([*values, whole]) - empty) / (whole - empty),
        unit="edges" if of_edges else "heads",
        provenance={**origin(model, task), "ablation": ablation, "metric": chosen.name, "ranking": ranking.name},
    )
