"""Screen, then verify: patch the first cells of a ranking for real, and say what the ranking misses (`screening`)."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.edges.verified_edges import VerifiedEdges, verify_edges
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric
from headlens.analyses.patching import run_plan
from headlens.analyses.screening import Screened, choose, metric_of
from headlens.analyses.sweep_plan import Plan, plan
from headlens.analyses.task import Task
from headlens.hooks.model import Model

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Verified(Screened):
    """What came out, and the two maps. `exact` is NaN where nothing was patched."""

    exact: HeadMap
    ranked: HeadMap

    def to_frame(self) -> "pandas.DataFrame":
        """The verified cells, largest exact effect first, with what was estimated and the place it was ranked at."""
        table = self.exact.top(int(np.isfinite(self.exact.values).sum()))
        estimates = dict(zip(self.ranked.to_frame()["label"], self.ranked.values.reshape(-1), strict=True))
        order = {label: place for place, label in enumerate(self.ranked.top(self.ranked.values.size)["label"], 1)}
        table["estimate"] = [float(estimates[label]) for label in table["label"]]
        table["ranked"] = [order[label] for label in table["label"]]
        return table

    def described(self) -> str:
        """The result in two sentences."""
        return self.in_words("cells")


@overload
def verify(
    model: Model,
    task: Task,
    ranked: HeadMap,
    k: int = 30,
    sample: int = 16,
    seed: int = 0,
    *,
    metric: AnyMetric | None = None,
    progress: bool = True,
) -> Verified: ...


@overload
def verify(
    model: Model,
    task: Task,
    ranked: EdgeMap,
    k: int = 30,
    sample: int = 16,
    seed: int = 0,
    *,
    metric: AnyMetric | None = None,
    progress: bool = True,
) -> VerifiedEdges: ...


def verify(
    model: Model,
    task: Task,
    ranked: HeadMap | EdgeMap,
    k: int = 30,
    sample: int = 16,
    seed: int = 0,
    *,
    metric: AnyMetric | None = None,
    progress: bool = True,
) -> Verified | VerifiedEdges:
    """Patch the k cells of largest magnitude in `ranked`, and `sample` random ones (all, if there are fewer), exactly.

    `ranked` comes from `attribute` (or any map of a sweep's axes that says its site, metric and direction) or from
    `attribute_edges`, on the same model and task. `metric` is needed where it was a function of your own.

    Raises:
        ValueError: for k or sample out of range, or a map that does not say what to patch.
    """
    if isinstance(ranked, EdgeMap):
        return verify_edges(model, task, ranked, k, sample, seed, metric=metric, progress=progress)
    chosen, cells = _plan_of(ranked, metric), choose(ranked.values, k, sample, seed)
    only = np.zeros(ranked.values.shape, bool)
    only.reshape(-1)[cells.every] = True
    exact = run_plan(model, task, chosen, progress=progress, only=only)
    if exact.dims != ranked.dims or exact.values.shape != ranked.values.shape:
        raise ValueError(f"The map has {ranked!r}, but patching this model on this task gives {exact!r}.")
    return Verified(**asdict(cells.screened(exact.values.reshape(-1))), exact=exact, ranked=ranked)


def _plan_of(ranked: HeadMap, metric: AnyMetric | None) -> Plan:
    about = ranked.provenance
    wanted = metric_of(ranked.name, about, metric, ("site", "metric", "direction"), "attribute")
    if about.get("source", "other") != "other" or "heads" in about:
        raise ValueError(f"The map {ranked.name!r} was patched already; verify takes estimates, from attribute.")
    return plan(about["site"], ranked.dims, wanted, about["direction"], positions=about.get("positions"))
