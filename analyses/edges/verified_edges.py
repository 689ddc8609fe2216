"""Edges whose effect was estimated, patched for real: the first ones, and a random sample of all."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from headlens.analyses.edges.edge_effects import edge_effects
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.edges.edge_samples import EdgeEffects
from headlens.analyses.metrics import AnyMetric
from headlens.analyses.screening import Screened, choose, metric_of
from headlens.analyses.task import Task
from headlens.hooks.model import Model

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class VerifiedEdges(Screened):
    """What came out, the estimates, and the exact effects of the edges that were patched."""

    exact: EdgeEffects
    ranked: EdgeMap

    def to_frame(self) -> "pandas.DataFrame":
        """The verified edges, largest exact effect first: sender, receiver, value, interval, estimate and its place."""
        table = self.exact.to_frame()
        order = self.ranked.top(self.ranked.values.size)
        places = {edge: place for place, edge in enumerate(zip(order.sender, order.receiver, strict=True), 1)}
        edges = [*zip(table.sender, table.receiver, strict=True)]
        table["estimate"] = [self.ranked.of(*edge) for edge in edges]
        table["ranked"] = [places[edge] for edge in edges]
        return table.sort_values("value", key=np.abs, ascending=False, kind="stable", ignore_index=True)

    def described(self) -> str:
        """The result in two sentences."""
        return self.in_words("edges")


def verify_edges(
    model: Model,
    task: Task,
    ranked: EdgeMap,
    k: int = 30,
    sample: int = 16,
    seed: int = 0,
    *,
    metric: AnyMetric | None = None,
    progress: bool = True,
) -> VerifiedEdges:
    """`headlens.verify` of edges that `attribute_edges` ranked, by `edge_effects`.

    ValueError for k or sample out of range, or a map that does not say its metric and direction.
    """
    about = ranked.provenance
    wanted = metric_of(ranked.name, about, metric, ("metric", "direction"), "attribute_edges")
    cells = choose(ranked.values, k, sample, seed)
    places = [divmod(int(at), ranked.values.shape[1]) for at in cells.every]
    edges = [(ranked.senders[sender], ranked.receivers[receiver]) for sender, receiver in places]
    exact = edge_effects(model, task, edges, wanted, about["direction"], progress=progress)
    return VerifiedEdges(**asdict(cells.screened(exact.to_map().values.reshape(-1))), exact=exact, ranked=ranked)
