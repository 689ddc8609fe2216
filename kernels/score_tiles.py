"""What the kernels of statistics share: an attention call as their first arguments, and tiles of its scores."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from headlens.kernels.seen import Seen
from headlens.kernels.tiles import scores_of, seen_in


def dense(tensor: Tensor) -> Tensor:
    """The same with its last dimension contiguous."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def sizes(query: Tensor, tile: tuple[int, int] | None) -> dict[str, int]:
    """How much a program takes: BM rows and BN keys of vectors padded to D, a power of two."""
    rows, width = query.shape[2:]
    d = max(16, triton.next_power_of_2(width))
    # products of float32 are made of single multiplications, which need more registers
    bm, bn = tile or ((64, 64) if query.dtype.itemsize == 2 else (32, 32 if d <= 64 else 16))
    bm = min(bm, max(16, triton.next_power_of_2(rows)))
    warps = 8 if bm * bn >= 4096 else 4
    return {"WIDTH": width, "D": d, "BM": bm, "BN": bn, "num_warps": warps, "num_stages": 2}


def bits(mask: Tensor, *shape: int) -> Tensor:
    """Booleans as a kernel reads them, repeated by strides of 0 to this shape."""
    return mask.view(torch.uint8).expand(shape)


def call(query: Tensor, key: Tensor, seen: Seen) -> tuple:
    """Who sees what, and sizes: from SEEN_FIRST up to `window` in each kernel's arguments."""
    (batch, heads, rows), (kv_heads, keys) = query.shape[:3], key.shape[1:3]
    mask = None if seen.mask is None else bits(seen.mask, batch, heads, rows, keys)
    first, end = (None if each is None else each.contiguous() for each in (seen.first, seen.end))
    strides = (0, 0, 0, 0) if mask is None else mask.stride()
    return (first, end, mask, *strides, heads, heads // kv_heads, rows, keys, seen.past, seen.window)


@no_type_check
@triton.jit
def prompt_keys(SEEN_FIRST, SEEN_END, batch, keys):
    """From which key up to before which a prompt has any."""
    first, end = 0, keys
    if SEEN_FIRST is not None:
        first = tl.maximum(tl.load(SEEN_FIRST + batch).to(tl.int32), 0)
    if SEEN_END is not None:
        end = tl.minimum(tl.load(SEEN_END + batch).to(tl.int32), keys)
    return first, end


@no_type_check
@triton.jit
def vectors(start, index, stride, count, WIDTH: tl.constexpr, D: tl.constexpr):
    """The vectors [index, D] of a head, 0 behind WIDTH and from `count` on."""
    d = tl.arange(0, D)
    where = start + index[:, None].to(tl.int64) * stride + d[None, :]
    return tl.load(where, mask=(index < count)[:, None] & (d < WIDTH)[None, :], other=0.0)


@no_type_check
@triton.jit
def columns(start, index, stride, count, WIDTH: tl.constexpr, D: tl.constexpr):
    """The same, [D, index]."""
    d = tl.arange(0, D)
    where = start + index[None, :].to(tl.int64) * stride + d[:, None]
    return tl.load(where, mask=(index < count)[None, :] & (d < WIDTH)[:, None], other=0.0)


@no_type_check
@triton.jit
def all_seen(from_key, low, high, first, end, window, MASK: tl.constexpr, CAUSAL: tl.constexpr, BN: tl.constexpr):
    """Whether every row at key positions low..high sees every key of the tile."""
    to_key = from_key + BN - 1
    whole = (from_key >= first) & (to_key < end)
    if CAUSAL:
        whole = whole & (to_key <= low)
    if window is not None:
        whole = whole & (high - from_key < window)
    if MASK:
        whole = whole & False
    return whole


@no_type_check
@triton.jit
def seen_scores(
    q, k, row, past, key, rows, first, end, window, mask, mask_row, mask_key, whole, scaling, softcap,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """Scores of a tile, -inf where they are not seen; of rows that are not there too, unless it is `whole`."""
    s = scores_of(q, k, scaling, softcap, softcap is not None)
    if not whole:
        seen = seen_in(
            past + row, key, first, end, window, mask, mask_row, mask_key, row < rows,
            CAUSAL, window is not None, mask is not None, row,
        )  # fmt: skip
        s = tl.where(seen, s, float("-inf"))
    return s
