"""Work in batches that become smaller where memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def in_batches(items: list[int], limit: int, do: Callable[[list[int]], None], alone: str) -> int:
    """`halved`, with a ValueError where a GPU's memory does not suffice for a single item, which `alone` describes."""
    with within_memory(alone):
        return halved(items, limit, do)


def halved(items: list[int], limit: int, do: Callable[[list[int]], None]) -> int:
    """Do all `items`, at most `limit` at once and in nearly equal batches; returns what the limit was in the end.

    A batch for which a GPU's memory does not suffice is halved, and so are all that follow; `do` must leave nothing
    behind of what it did not finish. torch.OutOfMemoryError where memory does not suffice for a single item.
    """
    waiting = batches(items, limit)
    while waiting:
        some, *later = waiting
        try:
            do(some)
        except torch.OutOfMemoryError:
            if len(some) == 1:
                raise
        else:
            waiting = later
            continue
        # only here, behind the exception, is nothing of the batch alive any more
        torch.cuda.empty_cache()
        limit = (len(some) + 1) // 2
        waiting = batches([item for batch in waiting for item in batch], limit)
    return limit


def batches(items: list[int], limit: int) -> list[list[int]]:
    """As few lists as none needs more than `limit` items, of nearly equal length: a short one would waste the rate."""
    count = -(-len(items) // limit)
    return [items[at * len(items) // count : (at + 1) * len(items) // count] for at in range(count)]


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """ValueError where a GPU's memory does not suffice for `what` is done inside the block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The GPU's memory does not hold {what}; let fewer prompts run at once (a smaller memory=, such as "
            "'100MiB'), give shorter ones, or load the model in bfloat16."
        ) from error
