"""How the kernels are started: all programs along one axis of the grid, since its other two end at 65,535 programs."""

from typing import Any, no_type_check

import triton
import triton.language as tl


def launch(kernel: Any, programs: int, *arguments: Any, **settings: Any) -> None:
    """Start so many programs. Triton types `kernel[grid]` as the kernel's own source, which says nothing of warps."""
    kernel[(programs,)](*arguments, **settings)


@no_type_check
@triton.jit
def program(tiles, heads):
    """Of a program: its tile, prompt and head. Tiles of one head run next to each other, and share what they load."""
    pair = tl.program_id(0) // tiles
    return tl.program_id(0) % tiles, (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
