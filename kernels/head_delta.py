"""What attention says when cells exchange some heads' `z`, all cells of a layer in one launch.

A program takes BM rows (positions of prompts, one after the other) of one cell and BN columns of the residual stream,
and adds up what each of the cell's heads says differently.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from headlens.kernels.launch import launch
from headlens.kernels.tiles import product


def patched_outputs(
    attended: Float[Tensor, "prompt suffix d_model"],
    source: Float[Tensor, "prompt reach head d"],
    base: Float[Tensor, "prompt reach head d"],
    output_weights: Float[Tensor, "head d d_model"],
    cells: Int[Tensor, "cell heads_per_cell"],
    tile: tuple[int, int, int, int] | None = None,
) -> Float[Tensor, "cell prompt suffix d_model"]:
    """As `headlens.kernels.reference_delta.patched_outputs`, which says what it means.

    `tile` is (BM, BN, BD, warps), where BD is how much of a head's width is multiplied at a time.
    """
    (prompts, suffix, columns), (reach, _, width) = attended.shape, source.shape[1:]
    attended, source, base = (each if each.stride(-1) == 1 else each.contiguous() for each in (attended, source, base))
    cells = cells.to(attended.device, torch.int32).contiguous()
    out = torch.empty(len(cells), prompts, suffix, columns, dtype=attended.dtype, device=attended.device)
    rows = prompts * suffix
    bm, bn, bd, warps = tile or _tile(output_weights.dtype.itemsize, rows)
    row_tiles, column_tiles = triton.cdiv(rows, bm), triton.cdiv(columns, bn)
    launch(
        _patched_outputs, len(cells) * row_tiles * column_tiles,
        attended, source, base, output_weights, cells, out,
        *attended.stride()[:2], *source.stride()[:3], *base.stride()[:3], *output_weights.stride(),
        suffix, reach, rows, cells.shape[1], row_tiles, column_tiles,
        COLUMNS=columns, WIDTH=width, BM=bm, BN=bn, BD=bd, num_warps=warps, num_stages=2,
    )  # fmt: skip
    return out


def _tile(itemsize: int, rows: int) -> tuple[int, int, int, int]:
    """BM, BN, BD and warps with which no program spills, by what the compiler says for compute capability 9.0."""
    if rows <= 16:
        return 16, 64, 64, 4
    return 64 if rows > 32 and itemsize == 2 else 32, 128, 32, 8


# sizes that change from call to call, for which nothing is compiled anew
_SIZES = ("suffix", "reach", "rows", "per_cell", "row_tiles", "column_tiles")


@no_type_check
@triton.jit(do_not_specialize=_SIZES)
def _patched_outputs(
    ATTENDED, SOURCE, BASE, WEIGHTS, CELLS, OUT,
    a_prompt, a_row, s_prompt, s_row, s_head, b_prompt, b_row, b_head, w_head, w_width, w_column,
    suffix, reach, rows, per_cell, row_tiles, column_tiles,
    COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # programs that read the same rows of the same heads run next to each other
    column = tl.program_id(0) % column_tiles * BN + tl.arange(0, BN)
    rest = tl.program_id(0) // column_tiles
    row, cell = rest % row_tiles * BM + tl.arange(0, BM), (rest // row_tiles).to(tl.int64)
    there, near = row < rows, column < COLUMNS
    far_column = column.to(tl.int64)
    prompt, position = (row // suffix).to(tl.int64), (row % suffix).to(tl.int64)
    moved = there & (position < reach)
    source_at = SOURCE + prompt * s_prompt + position * s_row
    base_at = BASE + prompt * b_prompt + position * b_row
    sums = tl.zeros((BM, BN), tl.float32)
    # a tile behind every patched row says what it said
    count = tl.where(tl.max(moved.to(tl.int32), 0) > 0, per_cell, 0)
    for index in range(0, count):
        head = tl.load(CELLS + cell * per_cell + index).to(tl.int64)
        for from_width in range(0, tl.where(head >= 0, WIDTH, 0), BD):
            d = from_width + tl.arange(0, BD)
            given = moved[:, None] & (d < WIDTH)[None, :]
            s = tl.load(source_at[:, None] + head * s_head + d[None, :], mask=given, other=0.0).to(tl.float32)
            b = tl.load(base_at[:, None] + head * b_head + d[None, :], mask=given, other=0.0).to(tl.float32)
            w_at = WEIGHTS + head * w_head + d.to(tl.int64)[:, None] * w_width + far_column[None, :] * w_column
            w = tl.load(w_at, mask=(d < WIDTH)[:, None] & near[None, :], other=0.0)
            sums = product((s - b).to(w.dtype), w, sums)
    inside = there[:, None] & near[None, :]
    a_at = ATTENDED + (prompt * a_prompt + position * a_row)[:, None] + far_column[None, :]
    said = tl.load(a_at, mask=inside, other=0.0).to(tl.float32) + sums
    out_at = OUT + ((cell * rows + row) * COLUMNS)[:, None] + far_column[None, :]
    tl.store(out_at, said.to(OUT.dtype.element_ty), mask=inside)
