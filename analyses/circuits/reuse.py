"""Do tasks reuse each other's circuits? Stage by stage, which heads are on top in both (2310.08744).

The paper counts shared heads of the top 2% of each of four stages: 25 of 32 in GPT-2 medium, between indirect objects
and colored objects. Here every count stands beside what chance gives (see `overlap`), at several shares, with how often
each head keeps its place when prompts are drawn again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.checkpoints import Checkpoint
from headlens.analyses.circuits.overlap import Overlap, overlap, rank_biased_by_chance, rank_biased_overlap, together
from headlens.analyses.circuits.stages import STAGES, Stage, on_top, share_of, stage_maps
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import METRICS, AnyMetric, named
from headlens.analyses.positions import Position
from headlens.analyses.provenance import origin
from headlens.analyses.run_metrics import run_metrics
from headlens.analyses.task import Task
from headlens.hooks.model import Model

if TYPE_CHECKING:
    import pandas

# Shares of all heads at which overlaps are told.
SHARES = (0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class Reuse:
    """Maps of path patching effects [stage][task], and what tasks have in common in them.

    `accuracy` is the share of clean prompts on which each task's answer is the most likely token of all. `top` is the
    share of heads that received in the next stage.
    """

    maps: Mapping[str, Mapping[str, HeadMap]]
    accuracy: Mapping[str, float]
    top: float
    provenance: Mapping[str, Any]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.accuracy)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that every task has."""
        return tuple(name for name, maps in self.maps.items() if len(maps) == len(self.accuracy))

    def selected(self, stage: str, task: str) -> tuple[str, ...]:
        """The heads on top of a stage, the largest first."""
        return on_top(self.maps[stage][task], self.top)

    def overlap(self, first: str, second: str, top: float | None = None) -> dict[str, Overlap]:
        """Two tasks' overlap at each stage, and as "all" over all stages together."""
        share, found = self.top if top is None else top, {}
        for stage in self.stages:
            one, other = (self.maps[stage][task] for task in (first, second))
            found[stage] = overlap(one, other, min(share_of(one, share), share_of(other, share)))
        return {**found, "all": together(found)}

    def to_frame(self, shares: Sequence[float] = SHARES) -> "pandas.DataFrame":
        """One row for each pair of tasks, stage and share: how many heads are on top, shared, and by chance."""
        import pandas

        rows = []
        for first, second in combinations(self.tasks, 2):
            for share in shares:
                for stage, found in self.overlap(first, second, share).items():
                    low, high = found.band
                    rows.append(
                        {
                            "first": first,
                            "second": second,
                            "stage": stage,
                            "share": share,
                            "heads": found.k,
                            "shared": len(found.shared),
                            "fraction": found.fraction,
                            "jaccard": found.jaccard,
                            "expected": found.expected,
                            "chance_low": low,
                            "chance_high": high,
                            "p": found.p,
                        }
                    )
        return pandas.DataFrame(rows)

    def ranks(self, persistence: float = 0.9, draws: int = 200, seed: int = 0) -> "pandas.DataFrame":
        """Rank-biased overlap of each pair of tasks at each stage, with its mean and 95th percentile by chance."""
        import pandas

        rows = []
        for first, second in combinations(self.tasks, 2):
            for stage in self.stages:
                one, other = (self.maps[stage][task] for task in (first, second))
                chance = rank_biased_by_chance(one, other, persistence, draws, seed)
                rows.append(
                    {
                        "first": first,
                        "second": second,
                        "stage": stage,
                        "overlap": rank_biased_overlap(one, other, persistence),
                        "chance_mean": chance.mean(),
                        "chance_95": np.quantile(chance, 0.95),
                    }
                )
        return pandas.DataFrame(rows)

    def stability(self, stage: str, task: str) -> HeadMap:
        """How often each head is on top of a stage when prompts are drawn again; its receivers stay."""
        headmap = self.maps[stage][task]
        return headmap.stability(share_of(headmap, self.top))

    def difference(self, stage: str, first: str, second: str) -> HeadMap:
        """Importance in the first task minus that in the second, each effect's magnitude over its map's largest."""
        one, other = (self.maps[stage][task] for task in (first, second))
        importance = [np.abs(each.values) / np.nanmax(np.abs(each.values)) for each in (one, other)]
        return replace(
            one,
            values=importance[0] - importance[1],
            samples=None,
            name=f"importance for {first} minus {second}, {stage}",
            units="share of the largest effect of its map",
            sign=f"Positive heads matter more for {first}, negative ones for {second}.",
            provenance={"first": dict(one.provenance), "second": dict(other.provenance)},
        )

    def as_map(self) -> HeadMap:
        """All maps in one, over (layer, head, metric) with metrics such as "logits of ioi"; without samples."""
        every = {f"{stage} of {task}": self.maps[stage][task] for stage in self.maps for task in self.maps[stage]}
        first = next(iter(every.values()))
        return HeadMap(
            np.stack([each.values for each in every.values()], -1),
            dims=("layer", "head", "metric"),
            coords={"metric": [*every]},
            name="path patching effects by stage and task",
            units=first.units,
            sign="Positive means that the head's paths into this stage's receivers carry the clean behaviour.",
            provenance={**self.provenance, "in_words": self.described()},
        )

    def described(self) -> str:
        """What is shared, in a few sentences."""
        done = ", ".join(f"{task} {share:.1%}" for task, share in self.accuracy.items())
        lines = [f"Accuracy (the answer is the most likely token): {done}."]
        for first, second in combinations(self.tasks, 2):
            lines.append(f"{first} and {second}, the top {self.top:.0%} of heads at each stage:")
            lines += [f"  {stage:8} {found.described()}" for stage, found in self.overlap(first, second).items()]
        return "\n".join(lines)


def reuse(
    model: Model,
    tasks: Sequence[Task],
    top: float = 0.02,
    *,
    stages: Sequence[Stage] = STAGES,
    positions: Mapping[str, Mapping[str, Sequence[Position]]] | None = None,
    direction: str = "noising",
    metric: AnyMetric | None = None,
    mlps: str = "recomputed",
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Reuse:
    """Path patch every stage of every task, and compare the heads on top.

    Args:
        tasks: two or more, each of another name.
        top: the share of all heads that are on top of a stage, and receive in the next.
        stages: what receives, back from the logits: the logits; those heads' queries at END; the values that these
            heads read, everywhere; and the queries, keys and values of the heads that make them.
        positions: for some tasks and stages, where it receives: {"ioi": {"values": ["S2"]}}.
        mlps: "recomputed" or "frozen", as in `path_patch`.
        run: a folder that keeps each finished map, as maps/TASK-STAGE.safetensors; a later call with the same arguments
            goes on from there, unless `resume` is False.

    Returns:
        A Reuse: `.described()`, `.to_frame()`, `.ranks()`, `.stability(...)`, `.difference(...)`.

    Raises:
        ValueError: for fewer than two tasks, two of one name, a folder that holds another run, and whatever
            `path_patch` refuses.
    """
    names = [task.name for task in tasks]
    if len(names) < 2 or len({*names}) < len(names):
        raise ValueError(f"The tasks {names} were given; expected two or more, each of another name.")
    options: dict[str, Any] = {"direction": direction, "mlps": mlps}
    about = {
        "analysis": "reuse",
        "tasks": [origin(model, task) for task in tasks],
        "top": top,
        "stages": [asdict(stage) for stage in stages],
        "positions": positions or {},
        "metric": [named(task.metric if metric is None else metric).name for task in tasks],
        **options,
    }
    maps: dict[str, dict[str, HeadMap]] = {stage.name: {} for stage in stages}
    folder = None if run is None else Path(run)
    with nullcontext() if folder is None else Checkpoint.open(folder, about, resume):
        for task in tasks:
            keeping = partial(_kept, folder, task.name, resume)
            own: Any = (positions or {}).get(task.name)
            options |= {"metric": metric, "positions": own, "progress": progress, "kept": keeping}
            for stage, headmap in stage_maps(model, task, top, stages, **options).items():
                maps[stage][task.name] = headmap
    accuracy = {task.name: float((run_metrics(model, task, METRICS["rank"])[0] == 0).mean()) for task in tasks}
    return Reuse(maps, accuracy, top, about)


def _kept(folder: Path | None, task: str, resume: bool, stage: str, compute: Callable[[], HeadMap]) -> HeadMap:
    """A finished map of the run folder, or else computed and kept there."""
    path = None if folder is None else folder / "maps" / f"{task}-{stage}.safetensors"
    if path is not None and resume and path.exists():
        return HeadMap.load(path)
    headmap = compute()
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        headmap.save(path)
    return headmap
