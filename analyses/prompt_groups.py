"""Which prompts run together: those of equal length that first differ at the same position, a bounded number at a time.

Grouped like this a causal model needs neither padding nor masks, and every group replays the shortest possible suffix.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.analyses.tasks import Task


@dataclass(frozen=True, eq=False)
class PromptGroup:
    """Prompts `indices` of a task, whose runs share everything before `start` and are read at `length - 1`."""

    indices: tuple[int, ...]
    start: int
    length: int

    def rows(self, tokens: Int[Tensor, "prompt pos"]) -> Int[Tensor, "some length"]:
        """The group's tokens, cut behind the position that is read: a causal model never sees further."""
        return tokens[list(self.indices), : self.length]


def group_prompts(task: Task, largest: int) -> list[PromptGroup]:
    """Groups of at most `largest` prompts. Pairs that do not differ before END are left out: nothing can move them."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    ends = task.positions["END"]
    for prompt in range(len(task)):
        end = int(ends[prompt])
        differing = torch.nonzero(task.clean_tokens[prompt, : end + 1] != task.corrupted_tokens[prompt, : end + 1])
        if len(differing):
            alike[int(differing[0]), end + 1].append(prompt)
    return [
        PromptGroup(tuple(prompts[at : at + largest]), start, length)
        for (start, length), prompts in sorted(alike.items())
        for at in range(0, len(prompts), largest)
    ]
