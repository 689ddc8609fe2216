"""Is this the circuit? Faithfulness, completeness and minimality, beside random circuits of the same size.

With m(C) the mean metric when everything outside C is ablated, m(M) the whole model's and m(0) that of nothing left:

- faithfulness = (m(C) - m(0)) / (m(M) - m(0)) (2504.13151): 1 does the whole task, 0 nothing of it, and more than 1
  better than the model, which happens where a circuit leaves out what works against the answer.
- completeness (2211.00593): without the circuit, (m(M - C) - m(0)) / (m(M) - m(0)) should be near 0; and without any
  part K of the circuit, it and the model should be alike: |m(C - K) - m(M - K)| / |m(M) - m(0)|, here for random halves
  of the nodes.
- minimality (2211.00593): what each node adds, (m(C) - m(C - v)) / (m(M) - m(0)).
- null: the faithfulness of random circuits with as many heads in each layer, or as many edges of each kind between each
  two layers.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.circuits.ablation import Ablation
from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.circuits.random_circuits import random_circuits
from headlens.analyses.metrics import AnyMetric, named
from headlens.analyses.provenance import origin
from headlens.analyses.sweep_map import SMALLEST_SCALE
from headlens.analyses.task import Task
from headlens.analyses.uncertainty import Interval, ratio_interval
from headlens.hooks.model import Model
from headlens.hooks.sites import parse_heads
from headlens.hooks.wiring import wiring_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a circuit keeps of a task, per prompt and in the metric's units.

    `whole`, `kept`, `empty` and `outside` [prompt]: the model, the circuit, nothing, and the model without the circuit.
    `without` [node, prompt]: of the circuit without each of `nodes`. `halves` [half, 2, prompt]: of circuit and model
    without a random half of the nodes. `null` [set, prompt]: of random circuits.
    """

    circuit: Circuit
    whole: np.ndarray
    kept: np.ndarray
    empty: np.ndarray
    outside: np.ndarray
    nodes: tuple[str, ...]
    without: np.ndarray
    halves: np.ndarray
    null: np.ndarray
    clusters: tuple[str, ...]
    provenance: dict[str, Any]

    @property
    def faithfulness(self) -> float:
        return float(self._share(self.kept))

    @property
    def left_outside(self) -> float:
        """The share of the task that the model does without the circuit: 0 where the circuit is complete."""
        return float(self._share(self.outside))

    @property
    def incompleteness(self) -> np.ndarray:
        """How far circuit and model are apart without each random half of the nodes [half], as a share of the task."""
        circuit, model = self._share(self.halves).T
        return np.abs(circuit - model)

    @property
    def null_faithfulness(self) -> np.ndarray:
        """The faithfulness of each random circuit [set]."""
        return self._share(self.null)

    @property
    def p_value(self) -> float:
        """The share of random circuits at least as faithful, this one counted among them."""
        return float((1 + (self.null_faithfulness >= self.faithfulness).sum()) / (1 + len(self.null)))

    def ci(self, level: float = 0.95, seed: int = 0) -> Interval:
        """Bootstrap interval of the faithfulness, resampling clusters of prompts."""
        return ratio_interval(self.kept - self.empty, self.whole - self.empty, self.clusters, level, seed=seed)

    def minimality(self, level: float = 0.95, seed: int = 0) -> "pandas.DataFrame":
        """One row per node, the least needed first: what it adds to the faithfulness, with its interval.

        Negative is a node that works against the answer.
        """
        import pandas

        adds = (self.kept - self.without).T
        interval = ratio_interval(adds, self.whole - self.empty, self.clusters, level, seed=seed)
        share = adds.mean(0) / (self.whole - self.empty).mean()
        frame = pandas.DataFrame({"node": self.nodes, "adds": share, "low": interval.low, "high": interval.high})
        return frame.sort_values("adds", key=np.abs, ignore_index=True)

    def described(self) -> str:
        """The figures in a few sentences."""
        about, interval, null = self.provenance, self.ci(), self.null_faithfulness
        sure = f"95% interval {float(interval.low):.0%} to {float(interval.high):.0%}"
        lines = [
            self.circuit.described(),
            f"Ablating the rest ({about['ablation']}), it keeps {self.faithfulness:.0%} of {about['metric']} ({sure}), "
            f"and the model without it keeps {self.left_outside:.0%}.",
        ]
        if len(self.halves):
            lines.append(
                f"Without a random half of it, circuit and model are {self.incompleteness.mean():.0%} apart on average "
                f"and {self.incompleteness.max():.0%} at most, of {len(self.halves)} halves."
            )
        if len(self.nodes):
            frame = self.minimality()
            idle = int(((frame.low <= 0) & (frame.high >= 0)).sum())
            lines.append(f"Left out alone, {idle} of its {len(frame)} nodes change nothing for sure.")
        if len(null):
            lines.append(
                f"{len(null)} random circuits of its size keep {null.mean():.0%} on average ({null.min():.0%} to "
                f"{null.max():.0%}; p {self.p_value:.3f})."
            )
        return "\n".join(lines)

    def _share(self, values: np.ndarray) -> np.ndarray:
        """Mean metric over the last axis, from 0 for nothing to 1 for the whole model."""
        nothing = self.empty.mean()
        return np.asarray((values.mean(-1) - nothing) / (self.whole.mean() - nothing))


def evaluate(
    circuit: Circuit,
    model: Model,
    task: Task,
    ablation: str = "other",
    metric: AnyMetric | None = None,
    *,
    n_random: int = 20,
    halves: int = 10,
    minimality: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Measure a circuit on a task, batched over prompts and circuits.

    Args:
        ablation: what stands in for everything outside: the pair's "other" (corrupted) run, "mean" or
            "mean_positional" over the corrupted prompts, "resample" (another corrupted prompt), or "zero".
        n_random, halves: how many random circuits, and random halves of the nodes, are measured; 0 leaves them out.
        minimality: whether each node is left out in turn.

    Raises:
        ValueError: for a circuit of another model, an unknown ablation or metric, and a task that the model does as
            well with nothing left.
    """
    if circuit.wiring != wiring_of(model):
        raise ValueError(f"The circuit {circuit.name!r} is of a model with other layers and heads than {model.name!r}.")
    chosen = named(task.metric if metric is None else metric)
    ablated = Ablation(model, task, chosen, ablation, seed)
    kinds = ("head",) if circuit.is_of_heads else ("head", "mlp")
    parts = [str(node) for node in circuit.nodes if node.kind in kinds]
    full = _everything(circuit)
    random = np.random.default_rng(seed)
    removed = [[part for part in parts if random.random() < 0.5] for _ in range(halves)]
    nulls = random_circuits(circuit, n_random, seed) if n_random else []
    nodes = tuple(parts) if minimality else ()
    asked = [
        circuit,
        _nothing(circuit),
        _complement(circuit),
        *(circuit.without([node]) for node in nodes),
        *(each.without(some) for some in removed for each in (circuit, full)),
        *nulls,
    ]
    found = ablated.of(asked, progress)
    kept, empty, outside, *_ = found
    rest = np.split(found[3:], [len(nodes), len(nodes) + 2 * halves])
    whole = ablated.whole
    if abs(float(whole.mean() - empty.mean())) < SMALLEST_SCALE:
        raise ValueError(
            f"On task {task.name!r} the {chosen.name} is the same with nothing left of the model, so a circuit has "
            "nothing to keep; use another ablation or another task."
        )
    about = {"ablation": ablation, "metric": chosen.name, "units": chosen.units, "seed": seed}
    return Evaluation(
        circuit=circuit,
        whole=whole,
        kept=kept,
        empty=empty,
        outside=outside,
        nodes=nodes,
        without=rest[0],
        halves=rest[1].reshape(halves, 2, len(task)),
        null=rest[2],
        clusters=task.templates,
        provenance={**origin(model, task), **about},
    )


def _everything(circuit: Circuit) -> Circuit:
    """The whole model: of heads, if the circuit is one of heads."""
    return replace(circuit, kept=circuit.wiring.possible, name="model")


def _nothing(circuit: Circuit) -> Circuit:
    """Every head ablated, if the circuit is one of heads; otherwise every edge."""
    if circuit.is_of_heads:
        return Circuit.of_nodes(circuit.wiring, (), name="nothing")
    return replace(circuit, kept=np.zeros_like(circuit.kept), name="nothing")


def _complement(circuit: Circuit) -> Circuit:
    """The model without the circuit: its other heads, or its other edges."""
    if not circuit.is_of_heads:
        return replace(circuit, kept=circuit.wiring.possible & ~circuit.kept, name="outside")
    wiring = circuit.wiring
    others = {*parse_heads("all", wiring.n_layers, wiring.n_heads)} - {*circuit.heads}
    return Circuit.of_nodes(wiring, others, name="outside")
