"""Circuits stage by stage, back from the logits: who speaks to the logits, who to those heads' queries, and so on.

Each stage is a path patching sweep whose receivers are the heads that the stage before put on top (2211.00593,
2310.08744).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric
from headlens.analyses.paths.path_patching import path_patch
from headlens.analyses.positions import Position
from headlens.analyses.stability import strongest
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.sites import parse_head

Keeping = Callable[[str, Callable[[], HeadMap]], HeadMap]


@dataclass(frozen=True)
class Stage:
    """One step back from the logits: what receives, of the heads on top of the stage `behind` (None: the logits).

    `positions` are where it receives: names of the task or token numbers; None is everywhere.
    """

    name: str
    behind: str | None = None
    components: tuple[str, ...] = ()
    positions: tuple[Position, ...] | None = None

    def at(self, positions: Mapping[str, Sequence[Position]]) -> tuple[Position, ...] | None:
        """Its positions on a task that has its own for some stages."""
        return tuple(positions[self.name]) if self.name in positions else self.positions


# The paper's four: movers; what sets where movers look; what that is made from; and one more step.
STAGES = (
    Stage("logits"),
    Stage("queries", "logits", ("q",), ("END",)),
    Stage("values", "queries", ("v",)),
    Stage("origins", "values", ("q", "k", "v")),
)


def share_of(headmap: HeadMap, top: float) -> int:
    """How many heads a share of all heads is, at least 1 and at most those that are not missing."""
    return max(1, min(round(top * headmap.values.size), int(np.isfinite(headmap.values).sum())))


def on_top(headmap: HeadMap, top: float) -> tuple[str, ...]:
    """The labels of the largest share `top` of heads by magnitude, the largest first."""
    chosen = strongest(headmap.values.reshape(1, -1), share_of(headmap, top))[0]
    return tuple(headmap.label(divmod(at, headmap.values.shape[1])) for at in chosen.tolist())


def stage_maps(
    model: Model,
    task: Task,
    top: float = 0.02,
    stages: Sequence[Stage] = STAGES,
    *,
    positions: Mapping[str, Sequence[Position]] | None = None,
    direction: str = "noising",
    metric: AnyMetric | None = None,
    mlps: str = "recomputed",
    progress: bool = True,
    kept: Keeping = lambda name, compute: compute(),
) -> dict[str, HeadMap]:
    """A map of path patching effects for each stage, by name.

    Stages end where all receivers are in the first layer, which nobody speaks to: later ones are not in the result.

    Args:
        top: the share of all heads that a stage puts on top, as receivers of the next one.
        positions: for this task, other positions of some stages, such as {"values": ["S2"]}.
        kept: gets each stage's name and what computes its map; to keep finished maps.

    Raises:
        ValueError: for a share that is not between 0 and 1, a stage behind one that does not come before it, and
            whatever `path_patch` refuses.
    """
    if not 0 < top < 1:
        raise ValueError(f"top={top} was given; expected a share of all heads between 0 and 1, such as 0.02.")
    found: dict[str, HeadMap] = {}
    own: Mapping[str, Any] = positions or {}
    options: dict[str, Any] = {"direction": direction, "metric": metric, "mlps": mlps, "progress": progress}
    for stage in stages:
        if stage.behind is None:
            found[stage.name] = kept(stage.name, partial(path_patch, model, task, "logits", **options))
            continue
        if stage.behind not in found:
            raise ValueError(f"Stage {stage.name!r} is behind {stage.behind!r}, which does not come before it.")
        heads = [label for label in on_top(found[stage.behind], top) if parse_head(label).layer > 0]
        if not heads:
            break
        receivers = [(head, component) for head in heads for component in stage.components]
        patched = partial(path_patch, model, task, receivers, positions=stage.at(own), **options)
        found[stage.name] = kept(stage.name, patched)
    return found
