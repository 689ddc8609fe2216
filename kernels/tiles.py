"""Parts that the Triton kernels share: a tile of scores, and which of its entries are seen.

A tile is [row, key]: BM rows of one head against BN keys. Entries that are not seen are -inf.

`no_type_check` keeps the tests' type checker from wrapping a kernel, which Triton reads by its source and its module.
"""

from typing import no_type_check

import triton
import triton.language as tl
from triton import knobs

# Triton's interpreter would multiply the bits of bfloat16 numbers as if they were whole numbers.
_INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@no_type_check
@triton.jit
def product(a, b, sums):
    """sums + a b, exact products of what a and b hold, summed in float32."""
    if _INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums)
    return tl.dot(a, b, sums, input_precision="ieee")


@no_type_check
@triton.jit
def scores_of(q, k, scaling, softcap, SOFTCAP: tl.constexpr):
    """Scaled and capped products of rows q [BM, D] and keys k [D, BN], in float32."""
    s = product(q, k, tl.zeros((q.shape[0], k.shape[1]), tl.float32)) * scaling
    if SOFTCAP:
        # tanh by an exponential of what is not positive, which cannot overflow
        x = s / softcap
        e = tl.exp(-2 * tl.abs(x))
        s = softcap * tl.where(x < 0, -1.0, 1.0) * (1 - e) / (1 + e)
    return s


@no_type_check
@triton.jit
def seen_in(
    at, key, first, end, window, mask_ptr, mask_row, mask_key, rows_there,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASK: tl.constexpr, row,
):  # fmt: skip
    """Which keys [BN] the rows at key positions `at` [BM] see; `first` and `end` bound the prompt's keys."""
    seen = (key[None, :] >= first) & (key[None, :] < end) & rows_there[:, None]
    if CAUSAL:
        seen = seen & (key[None, :] <= at[:, None])
    if WINDOW:
        seen = seen & (at[:, None] - key[None, :] < window)
    if MASK:
        where = mask_ptr + row[:, None].to(tl.int64) * mask_row + key[None, :].to(tl.int64) * mask_key
        seen = seen & (tl.load(where, mask=seen, other=0) != 0)
    return seen


@no_type_check
@triton.jit
def key_range(first, end, low, high, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BN: tl.constexpr):
    """From which key, a multiple of BN, up to before which, rows at key positions low..high can see any."""
    start = first
    if WINDOW:
        start = tl.maximum(start, low - window + 1)
    if CAUSAL:
        end = tl.minimum(end, high + 1)
    return (tl.maximum(start, 0) // BN) * BN, end
