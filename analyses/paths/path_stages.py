"""Which prompts of a task take a step of path patching together: those that are patched at the same positions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headlens.analyses.positions import Position, rows_at
from headlens.analyses.prompt_groups import PromptGroup
from headlens.analyses.task import Task
from headlens.hooks.paths.path_stage import Stage
from headlens.hooks.wiring import LOGITS, Node


@dataclass(frozen=True, eq=False)
class Part:
    """Prompts and the stage that they run."""

    group: PromptGroup
    stage: Stage


def parts_of(
    task: Task, positions: Sequence[Position] | None, group: PromptGroup, receivers: tuple[Node, ...], mlps: Any
) -> list[Part]:
    """A group's prompts by their positions, None being all: those behind the first at which their runs differ."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    chosen = None if positions is None else rows_at(positions, task, group)
    # what is read at END hears nothing of other positions
    first = group.length - 1 if receivers[-1].kind == LOGITS else group.start
    for row, prompt in enumerate(group.indices):
        reached = range(first, group.length)
        alike[tuple(at for at in reached if chosen is None or chosen[row, at])].append(prompt)
    return [
        Part(replace(group, indices=tuple(prompts)), Stage(receivers, columns, mlps))
        for columns, prompts in alike.items()
    ]
