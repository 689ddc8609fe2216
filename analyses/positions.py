"""Positions as people name them: a token's number, a name of the task ("S2", "END"), or a span ("S1..S2")."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from headlens.analyses.prompt_groups import PromptGroup
from headlens.analyses.task import Task
from headlens.hooks.nearest import did_you_mean

Position = int | str


def checked(positions: Position | Sequence[Position] | None, task: Task) -> tuple[Position, ...] | None:
    """The positions asked for, each known to the task; ValueError names the nearest name."""
    if positions is None:
        return None
    several = (positions,) if isinstance(positions, int | str) else tuple(positions)
    if not several:
        raise ValueError("No positions were given; name at least one, such as 'END', or leave them out.")
    for position in several:
        for end in [position] if isinstance(position, int) else position.split(".."):
            _column(end, task)
    return several


def rows_at(positions: Sequence[Position], task: Task, group: PromptGroup) -> Bool[Tensor, "prompt pos"]:
    """Which positions of a group's prompts are meant, all of `positions` together; spans include both ends."""
    count = torch.arange(group.length)
    chosen = torch.zeros(len(group.indices), group.length, dtype=torch.bool)
    for position in positions:
        ends = [position] if isinstance(position, int) else position.split("..")
        first, last = (_column(end, task)[list(group.indices), None] for end in (ends[0], ends[-1]))
        chosen |= (count >= first) & (count <= last)
    return chosen


def _column(position: Position, task: Task) -> Tensor:
    """One end of a span in each prompt of the task."""
    if isinstance(position, str) and not position.isdigit():
        if position not in task.positions:
            hint = did_you_mean(position, task.positions)
            raise ValueError(
                f"Task {task.name!r} has no position {position!r}{hint}; it names {', '.join(task.positions)}. "
                "Tokens are also counted from 0, and 'S1..S2' is a span with both ends."
            )
        return task.positions[position]
    at, longest = int(position), task.clean_tokens.shape[1]
    if not 0 <= at < longest:
        raise ValueError(
            f"Position {at} was given; the prompts of task {task.name!r} have positions 0 to {longest - 1}."
        )
    return torch.full((len(task),), at)
