"""Screen, then verify: patch the first cells of a ranking for real, and say what the ranking misses.

The cells patched are the first k and a random sample of all. The sample says how well the ranking agrees with the exact
effects (Spearman's rank correlation), and how many cells outside the first k may be as large as those inside: of those
cells sampled, none or few were, which bounds their share (Clopper and Pearson's exact interval).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric
from headlens.analyses.patching import run_plan
from headlens.analyses.rank_correlation import spearman
from headlens.analyses.sweep_plan import Plan, plan
from headlens.analyses.task import Task
from headlens.hooks.model import Model

if TYPE_CHECKING:
    import pandas

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Verified:
    """What came out. `exact` is NaN where nothing was patched.

    `agreement` is Spearman's correlation of estimate and exact effect over the sample, `interval` its bounds at 95%.
    `outside` cells of the sample were not among the first k; `overlooked` of them have an exact effect as large as the
    tenth largest verified one (or the smallest, of fewer). `at_most` bounds the share of such cells among all that were
    not verified.
    """

    exact: HeadMap
    ranked: HeadMap
    k: int
    agreement: float
    interval: tuple[float, float]
    outside: int
    overlooked: int
    at_most: float

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
        low, high = self.interval
        return (
            f"The first {self.k} of {np.isfinite(self.ranked.values).sum()} cells and a random sample were patched. In "
            f"the sample, estimate and exact effect agree with a rank correlation of {self.agreement:+.2f} "
            f"[{low:+.2f}, {high:+.2f}].\n"
            f"Of its {self.outside} cells outside the first {self.k}, {self.overlooked} are as large as the ones that "
            f"matter here, so at most {self.at_most:.0%} of all such cells are ({LEVEL:.0%} bound)."
        )


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
) -> Verified:
    """Patch the k cells of largest magnitude in `ranked`, and `sample` random ones (all, if there are fewer), exactly.

    `ranked` comes from `attribute` (or any map of a sweep's axes that says its site, metric and direction), on the same
    model and task. `metric` is needed where it was a function of your own.

    Raises:
        ValueError: for k or sample out of range, or a map that does not say what to patch.
    """
    chosen = _plan_of(ranked, metric)
    present = np.flatnonzero(np.isfinite(ranked.values))
    sample = min(sample, len(present))
    if not 1 <= k <= len(present) or sample < 4:
        raise ValueError(
            f"k={k} and sample={sample} were given; the map has {len(present)} cells: k from 1, sample from 4."
        )
    flat = ranked.values.reshape(-1)
    first = present[np.argsort(-np.abs(flat[present]), kind="stable")[:k]]
    drawn = np.random.default_rng(seed).choice(present, sample, replace=False)
    only = np.zeros(ranked.values.shape, bool)
    only.reshape(-1)[np.union1d(first, drawn)] = True
    exact = run_plan(model, task, chosen, progress=progress, only=only)
    if exact.dims != ranked.dims or exact.values.shape != ranked.values.shape:
        raise ValueError(f"The map has {ranked!r}, but patching this model on this task gives {exact!r}.")
    found = exact.values.reshape(-1)
    verified = np.sort(np.abs(found[first]))[::-1]
    outside = np.setdiff1d(drawn, first)
    overlooked = int((np.abs(found[outside]) >= verified[min(10, k) - 1]).sum())
    agreement = float(spearman(flat[drawn][None], found[drawn][None])[0])
    return Verified(
        exact=exact,
        ranked=ranked,
        k=k,
        agreement=agreement,
        interval=_fisher(agreement, sample),
        outside=len(outside),
        overlooked=overlooked,
        at_most=_upper_bound(overlooked, len(outside)),
    )


def _plan_of(ranked: HeadMap, metric: AnyMetric | None) -> Plan:
    about = ranked.provenance
    missing = [key for key in ("site", "metric", "direction") if key not in about]
    if missing:
        raise ValueError(f"The map {ranked.name!r} does not say its {missing[0]}; verify takes maps from attribute.")
    if "metric_keys" in about and metric is None:
        raise ValueError(f"The map was made with the metric {about['metric']!r}, a function; give it again: metric=...")
    if about.get("source", "other") != "other" or "heads" in about:
        raise ValueError(f"The map {ranked.name!r} was patched already; verify takes estimates, from attribute.")
    wanted = about["metric"] if metric is None else metric
    return plan(about["site"], ranked.dims, wanted, about["direction"], positions=about.get("positions"))


def _fisher(correlation: float, n: int) -> tuple[float, float]:
    """The interval of a rank correlation by Fisher's transformation, with Bonett and Wright's (2000) standard error."""
    if not abs(correlation) < 1:
        return correlation, correlation
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + correlation**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(correlation) + np.array([-half, half]))
    return float(low), float(high)


def _upper_bound(found: int, n: int) -> float:
    """The largest share of which `found` in `n` would still be likely; one-sided, exact."""
    return 1.0 if found >= n else float(stats.beta.ppf(LEVEL, found + 1, n - found))
