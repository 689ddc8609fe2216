"""Where the patches of a picture stand among the positions of an image encoder."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.hooks.picture_layouts import patch_grid

# tokens that an encoder may have in front of its patches: a class token, registers
MOST_IN_FRONT = 16


def vision_columns(
    config: Any, n_positions: int, image_grid_thw: Tensor | None = None
) -> tuple[Int[Tensor, "row column"], ...]:
    """The position of each patch, [row, column], among the keys (or rows) of the tower "vision".

    `n_positions` is how many there are: the last axis of a recorded `vision.blocks.0.attn.hook_pattern`. An encoder of
    pictures of one size has one picture (or tile) in each row of its batch, and one answer for all of them, behind its
    class token where it has one. Qwen's encoders have all pictures one behind the other, and one answer for each
    picture of `image_grid_thw`; Qwen2.5's order is by windows.

    ValueError where the positions are not those of a whole grid.
    """
    vision = getattr(config, "vision_config", config)
    if image_grid_thw is not None:
        found = _one_behind_the_other(vision, image_grid_thw)
        total = sum(each.numel() for each in found)
        if total != n_positions:
            raise ValueError(f"The pictures of image_grid_thw have {total} patches, and n_positions={n_positions}.")
        return found
    grid = patch_grid(config)
    if grid is None:
        raise ValueError(
            f"{type(vision).__name__} names no size of picture and patch; Qwen's encoders need image_grid_thw too."
        )
    in_front = n_positions - grid[0] * grid[1]
    if not 0 <= in_front <= MOST_IN_FRONT:
        raise ValueError(
            f"An image encoder of {grid[0]} x {grid[1]} patches was said to have {n_positions} positions; give the "
            "number of keys of its own pattern."
        )
    return (torch.arange(in_front, n_positions).view(grid),)


def _one_behind_the_other(vision: Any, grids: Tensor) -> tuple[Tensor, ...]:
    """Patches stand in squares that become one token each, and squares row by row or window by window."""
    side, window, first, found = vision.spatial_merge_size, getattr(vision, "window_size", None), 0, []
    for frames, rows, columns in grids.tolist():
        if frames != 1:
            raise ValueError(f"image_grid_thw has a picture of {frames} frames; only still pictures have such a grid.")
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        square = row // side * (columns // side) + column // side
        if window is not None:
            square = _by_windows(rows // side, columns // side, window // side // vision.patch_size)[square]
        found.append(first + square * side**2 + row % side * side + column % side)
        first += rows * columns
    return tuple(found)


def _by_windows(rows: int, columns: int, size: int) -> Int[Tensor, " square"]:
    """The place of each square, row by row, when windows of `size` x `size` of them come one after the other."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    window = row // size * -(-columns // size) + column // size
    inside = row % size * size + column % size
    return (window * size**2 + inside).flatten().argsort().argsort()
