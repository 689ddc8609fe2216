"""What is left of a task when everything outside a circuit is ablated.

A circuit of heads with all edges among them and all MLPs is the model with its other heads ablated, which the sweep
engine does by replay, many circuits at once. Any other circuit is run edge by edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from tqdm.auto import tqdm

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.circuits.grounds import Grounded, grounded
from headlens.analyses.metrics import Metric, measured
from headlens.analyses.patching import run_plan
from headlens.analyses.run_metrics import run_metrics
from headlens.analyses.sweep_plan import Plan
from headlens.analyses.task import Task
from headlens.hooks.edges.edge_run import run_edges
from headlens.hooks.model import Model
from headlens.hooks.sites import parse_heads

# What the senders of all circuits that are run edge by edge together may write.
_BYTES = 2**29
# What stands in for a node outside the circuit: the pair's corrupted run (EAP-IG and MIB call it patching), means over
# the corrupted prompts, the corrupted run of another prompt, or nothing.
ABLATIONS = ("other", "mean", "mean_positional", "resample", "zero")


@dataclass(frozen=True)
class Ablation:
    """How circuits are measured on a task."""

    model: Model
    task: Task
    metric: Metric
    source: str = "other"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.source not in ABLATIONS:
            raise ValueError(f"Unknown ablation {self.source!r}; give {', '.join(ABLATIONS[:-1])} or {ABLATIONS[-1]}.")

    def of(self, circuits: Sequence[Circuit], progress: bool = False) -> np.ndarray:
        """The metric of each circuit on each prompt [circuit, prompt], in the metric's units."""
        if all(circuit.is_of_heads for circuit in circuits):
            return self._of_heads(circuits, progress)
        return self._of_edges(circuits, progress)

    def _of_heads(self, circuits: Sequence[Circuit], progress: bool) -> np.ndarray:
        model = self.model
        every = {*parse_heads("all", model.n_layers, model.n_heads)}
        outside = [tuple(sorted(every - {*circuit.heads})) for circuit in circuits]
        found = np.repeat(self.whole[None], len(circuits), 0)
        some = [at for at, heads in enumerate(outside) if heads]
        if some:
            sets = tuple(outside[at] for at in some)
            plan = Plan("z", ("heads",), (self.metric,), "noising", self.source, None, sets, self.seed)
            lost = run_plan(model, self.task, plan, progress=progress).samples
            assert lost is not None
            found[some] -= lost.T
        return found

    def _of_edges(self, circuits: Sequence[Circuit], progress: bool) -> np.ndarray:
        # a pair that does not differ loses nothing
        found = np.repeat(self.whole[None], len(circuits), 0)
        kept = np.stack([circuit.kept for circuit in circuits])
        with tqdm(total=len(kept) * len(self._grounds), unit=" circuits", disable=not progress) as bar:
            bar.set_description(f"running edges on {self.task.name}")
            for group in self._grounds:
                for some in _at_once(kept, group.ground.embedding.nbytes):
                    logits = run_edges(self.model, group.ground, kept[some], group.read)
                    values = measured([self.metric], logits.float(), group.task, group.clean)[..., 0]
                    found[some, group.indices] = values.cpu().numpy()
                    bar.update(len(values))
        return found

    @property
    def whole(self) -> np.ndarray:
        """The metric of the whole model on each prompt [prompt]."""
        return self._runs[0]

    @property
    def corrupted(self) -> np.ndarray:
        """The metric of the corrupted run on each prompt [prompt]."""
        return self._runs[1]

    @cached_property
    def _runs(self) -> tuple[np.ndarray, np.ndarray]:
        return run_metrics(self.model, self.task, self.metric)

    @cached_property
    def _grounds(self) -> list[Grounded]:
        return [*grounded(self.model, self.task, self.metric, self.source, self.seed)]


def _at_once(kept: np.ndarray, bytes_of_sender: int) -> list[slice]:
    """The circuits [cell] in runs of neighbours whose senders together write no more than is allowed."""
    senders = kept.any(2).sum(1)
    ends, held = [], 0
    for at, count in enumerate(senders):
        if held and (held + count) * bytes_of_sender > _BYTES:
            ends.append(at)
            held = 0
        held += count
    return [slice(*pair) for pair in pairwise([0, *ends, len(kept)])]
