"""How a sweep's many short-lived tensors get their memory: two settings of torch and the C library that save time.

Both are hints: they change no number, and where a system knows nothing of them they do nothing.
"""

import os

import torch

_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
# The largest block that glibc lets move its thresholds is 32 MiB, with what it stores beside it.
_JUST_BELOW = 31 * 2**20


def keep_freed_memory() -> None:
    """Let later allocations of up to 31 MiB reuse what earlier ones freed.

    glibc gives large freed blocks back to the system at once, and a sweep frees a layer's activations every few
    milliseconds: 0.3 to 0.5 million page faults in a sweep of 8 s on two cores. Freeing a block raises glibc's
    threshold to the block's size, so one is freed here that was never written to.
    """
    torch.empty(_JUST_BELOW, dtype=torch.uint8)


def ask_for_huge_pages() -> None:
    """Have torch ask Linux for pages of 2 MiB for large tensors, unless the user has said otherwise.

    torch reads the setting once, when it makes its first large tensor, which happens here if it has not yet; the
    environment is left as it was. Fewer page addresses are then missed on the way through weights and activations.
    """
    if _HUGE_PAGES in os.environ:
        return
    os.environ[_HUGE_PAGES] = "1"
    torch.empty(_JUST_BELOW, dtype=torch.uint8)
    del os.environ[_HUGE_PAGES]
