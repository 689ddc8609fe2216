"""Prompts that are read and not answered: windows of text, or a task's prompts, each at its own length."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.equal_lengths import of_equal_length, tokens_together
from headlens.analyses.provenance import origin, text_origin
from headlens.analyses.task import Task
from headlens.hooks.model import Model

# Tokens that run together, and are lost together where a run is killed.
_TOGETHER = 2048


@dataclass(frozen=True, eq=False)
class Prompts:
    """Token ids, padded on the right. Prompts that share a template are one cluster of the bootstrap.

    `about` is what provenance says of them and of their model, `details` how they were made. `other` are prompts of the
    same lengths that they may be compared with: the corrupted ones of pairs.
    """

    name: str
    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    about: Mapping[str, Any]
    templates: tuple[str, ...] = ()
    other: Int[Tensor, "prompt pos"] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self) -> Iterator[tuple[list[int], int]]:
        """Which prompts run together, without padding since they are equally long, and how long they are."""
        return of_equal_length(self.lengths, tokens_together(_TOGETHER))


def prompts_of_task(model: Model, task: Task | ChoiceTask) -> Prompts:
    """The clean prompts of pairs, with the corrupted ones beside them, or prompts with choices, without these."""
    pairs = isinstance(task, Task)
    return Prompts(
        name=task.name,
        tokens=task.clean_tokens if pairs else task.tokens,
        lengths=task.lengths,
        about=origin(model, task),
        templates=task.templates,
        other=task.corrupted_tokens if pairs else None,
        details=task.details,
    )


def prompts_of_windows(
    model: Model, windows: Int[Tensor, "prompt pos"], name: str, details: Mapping[str, Any]
) -> Prompts:
    """Windows of a text known as `name`, as `text_windows` cuts them; `details` say how they were cut."""
    return Prompts(
        name=name,
        tokens=windows,
        lengths=torch.full((len(windows),), windows.shape[1]),
        about={**text_origin(model, windows), "text": name, "text_details": dict(details)},
        details=details,
    )
