"""Prompts that run together: those of equal length, without padding or masks, a bounded number at a time."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from jaxtyping import Int
from torch import Tensor


def of_equal_length(lengths: Int[Tensor, " prompt"], at_once: Callable[[int], int]) -> Iterator[tuple[list[int], int]]:
    """Prompts and their common length, short ones first; at most `at_once(length)` together, and at least one."""
    alike: dict[int, list[int]] = defaultdict(list)
    for prompt, length in enumerate(lengths.tolist()):
        alike[length].append(prompt)
    for length, prompts in sorted(alike.items()):
        size = max(1, at_once(length))
        for first in range(0, len(prompts), size):
            yield prompts[first : first + size], length


def tokens_together(tokens: int) -> Callable[[int], int]:
    """As many prompts of a length as have so many tokens together."""
    return lambda length: tokens // length
