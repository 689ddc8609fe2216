"""Which prompts run together: those of equal length, a bounded number at a time.

Grouped like this a causal model needs neither padding nor masks. Where the patch comes from the other run of a pair,
prompts that first differ at the same position go together, so that every group replays the shortest possible suffix.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.analyses.task import Task


@dataclass(frozen=True, eq=False)
class PromptGroup:
    """Prompts `indices` of a task, in which nothing changes before `start` and which are read at `length - 1`."""

    indices: tuple[int, ...]
    start: int
    length: int

    def rows(self, tokens: Int[Tensor, "prompt pos"]) -> Int[Tensor, "some length"]:
        """The group's tokens, cut behind the position that is read: a causal model never sees further."""
        return tokens[list(self.indices), : self.length]


def group_prompts(task: Task, largest: int) -> list[PromptGroup]:
    """Groups of at most `largest` prompts. Pairs that do not differ before END are left out: nothing can move them."""
    starts: dict[int, int] = {}
    for prompt, end in enumerate(task.positions["END"].tolist()):
        differing = torch.nonzero(task.clean_tokens[prompt, : end + 1] != task.corrupted_tokens[prompt, : end + 1])
        if len(differing):
            starts[prompt] = int(differing[0])
    return _grouped(task, starts, largest)


def group_whole_prompts(task: Task, largest: int) -> list[PromptGroup]:
    """Groups of at most `largest` prompts, in which all positions may change."""
    return _grouped(task, dict.fromkeys(range(len(task)), 0), largest)


def _grouped(task: Task, starts: dict[int, int], largest: int) -> list[PromptGroup]:
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for prompt, start in starts.items():
        alike[start, int(task.positions["END"][prompt]) + 1].append(prompt)
    return [
        PromptGroup(tuple(prompts[at : at + largest]), start, length)
        for (start, length), prompts in sorted(alike.items())
        for at in range(0, len(prompts), largest)
    ]
