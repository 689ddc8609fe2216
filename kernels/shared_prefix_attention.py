"""Attention of many variants (cells) of a prompt that share one copy of their first keys and values.

The rows of a prompt and a key/value head are (cell, query head of its group, query), one after the other. A program
takes BM of them, so that rows of several cells and heads go through a tile of prefix keys together. Then follow, as one
sequence, the last few keys of the prefix and the suffixes of those cells that the rows are of.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.kernels.launch import launch
from headlens.kernels.mask_words import WORD, mask_words
from headlens.kernels.tiles import product, scores_of

_LOG2_E = math.log2(math.e)


def shared_prefix_attention(
    query: Float[Tensor, "cell prompt head query d"],
    key: Float[Tensor, "cell prompt kv_head suffix d"],
    value: Float[Tensor, "cell prompt kv_head suffix d_value"],
    prefix_key: Float[Tensor, "prompt kv_head prefix d"],
    prefix_value: Float[Tensor, "prompt kv_head prefix d_value"],
    allowed: Bool[Tensor, "#prompt 1 query key"],
    scaling: float,
    tile: tuple[int, int, int] | None = None,
) -> Float[Tensor, "cell prompt query head d_value"]:
    """As `headlens.kernels.reference.shared_prefix_attention`, which says what it means.

    A row that sees no key has z 0 here. `tile` is (BM, BN, warps); BN is a multiple of 32.
    """
    (cells, prompts, heads, queries, width), wide = query.shape, value.shape[4]
    kv_heads, prefix, suffix = key.shape[2], prefix_key.shape[2], key.shape[3]
    query, key, value, prefix_key, prefix_value = (
        each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value, prefix_key, prefix_value)
    )
    group = heads // kv_heads
    rows = cells * group * queries
    words, first, full = (each.expand(prompts, *each.shape[1:]) for each in mask_words(allowed[:, 0], prefix))
    z = torch.empty(cells, prompts, queries, heads, wide, dtype=value.dtype, device=query.device)
    bm, bn, warps = tile or _tile(max(width, wide), query.dtype.itemsize, rows)
    tiles = triton.cdiv(rows, bm)
    launch(
        _shared_prefix_attention, tiles * prompts * kv_heads,
        query, key, value, prefix_key, prefix_value, words, first, full, z,
        *query.stride()[:4], *key.stride()[:4], *value.stride()[:4], *prefix_key.stride()[:3],
        *prefix_value.stride()[:3], *words.stride()[:2], first.stride(0),
        prompts, kv_heads, group, queries, prefix, suffix, rows, tiles, scaling * _LOG2_E,
        WIDTH=width, WIDE=wide, D=_padded(width), DV=_padded(wide), BM=bm, BN=bn, WORD=WORD,
        # products of float32 are made of single multiplications, which need the registers of loading ahead
        num_warps=warps, num_stages=2 if query.dtype.itemsize == 2 else 1,
    )  # fmt: skip
    return z


def _tile(width: int, itemsize: int, rows: int) -> tuple[int, int, int]:
    """BM, BN and warps with which no program spills, by what the compiler says for compute capability 9.0."""
    if itemsize == 2:
        bm, bn, warps = (128, 64, 4 if width <= 64 else 8) if width <= 128 else (32, 64, 8)
    else:
        bm, bn, warps = (32, 32, 4) if width <= 64 else (16, 32, 8)
    few = min(bm, _padded(rows))
    return few, bn, warps if few >= bm // 2 else 4


def _padded(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


# sizes that change from call to call, for which nothing is compiled anew
_SIZES = ("w_prompt", "w_row", "f_prompt", "prompts", "queries", "prefix", "suffix", "rows", "tiles")


@no_type_check
@triton.jit(do_not_specialize=_SIZES)
def _shared_prefix_attention(
    Q, K, V, PREFIX_K, PREFIX_V, WORDS, FIRST, FULL, Z,
    q_cell, q_prompt, q_head, q_row, k_cell, k_prompt, k_head, k_key, v_cell, v_prompt, v_head, v_key,
    pk_prompt, pk_head, pk_key, pv_prompt, pv_head, pv_key, w_prompt, w_row, f_prompt,
    prompts, kv_heads, group, queries, prefix, suffix, rows, tiles, scaling,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    WORD: tl.constexpr,
):  # fmt: skip
    # programs of one prefix run next to each other
    tile, pair = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    prompt, kv_head = (pair // kv_heads).to(tl.int64), (pair % kv_heads).to(tl.int64)
    row = tile * BM + tl.arange(0, BM)
    there = row < rows
    of_cell = group * queries
    cell, of_head = row // of_cell, row // queries
    query, head = row - of_head * queries, kv_head * group + (of_head - cell * group)
    d, dv = tl.arange(0, D), tl.arange(0, DV)
    q_at = Q + prompt * q_prompt + (cell.to(tl.int64) * q_cell + head * q_head + query.to(tl.int64) * q_row)
    q = tl.load(q_at[:, None] + d[None, :], mask=there[:, None] & (d < WIDTH)[None, :], other=0.0)
    words = WORDS + prompt * w_prompt + query.to(tl.int64) * w_row
    prefix_k = PREFIX_K + prompt * pk_prompt + kv_head * pk_head
    prefix_v = PREFIX_V + prompt * pv_prompt + kv_head * pv_head
    m = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    sums = tl.zeros((BM, DV), tl.float32)

    first_seen = tl.min(tl.load(FIRST + prompt * f_prompt + query, mask=there, other=prefix), 0)
    full = tl.cdiv(tl.max(tl.load(FULL + prompt * f_prompt + query, mask=there, other=0), 0), WORD) * WORD
    last_word = prefix // WORD * WORD
    whole = full + tl.maximum(last_word - full, 0) // BN * BN
    # keys that some rows do not see, then tiles that all rows see, then what is too little for such a tile
    m, total, sums = _through_prefix(
        m, total, sums, q, words, there, prefix_k, prefix_v, pk_key, pv_key, scaling,
        first_seen // WORD * WORD, tl.minimum(full, last_word), True, 1, WORD, WORD, WIDTH, WIDE,
    )  # fmt: skip
    m, total, sums = _through_prefix(
        m, total, sums, q, words, there, prefix_k, prefix_v, pk_key, pv_key, scaling,
        full, whole, False, None, BN, WORD, WIDTH, WIDE,
    )  # fmt: skip
    m, total, sums = _through_prefix(
        m, total, sums, q, words, there, prefix_k, prefix_v, pk_key, pv_key, scaling,
        whole, last_word, False, 1, WORD, WORD, WIDTH, WIDE,
    )  # fmt: skip

    first = tile * BM // of_cell
    cells_here = (tl.minimum(tile * BM + BM, rows) - 1) // of_cell - first + 1
    suffix_k = K + prompt * k_prompt + kv_head * k_head
    suffix_v = V + prompt * v_prompt + kv_head * v_head
    rest = prefix - last_word
    rest_word = tl.load(words + last_word // WORD, mask=there, other=0)
    words += tl.cdiv(prefix, WORD)
    # the suffix positions of one word at a time, cell after cell; in front of the first, the last keys of the prefix
    for from_at in range(0, suffix, WORD):
        word = tl.load(words + from_at // WORD, mask=there, other=0)
        width = tl.minimum(suffix - from_at, WORD)
        end = rest + cells_here * width
        for from_column in tl.range(0, end, WORD, num_stages=1):
            column = from_column + tl.arange(0, WORD)
            behind = column >= rest
            nth = tl.maximum(column - rest, 0)
            # exact for numbers this small, and much faster than a division of whole numbers
            index = ((nth + 0.5) * (1.0 / width)).to(tl.int32)
            owner, bit = first + index, nth - index * width
            old, new = ~behind, behind & (column < end)
            k_at = suffix_k + (owner.to(tl.int64) * k_cell + (from_at + bit).to(tl.int64) * k_key)
            k = tl.load(k_at[None, :] + d[:, None], mask=new[None, :] & (d < WIDTH)[:, None], other=0.0)
            # two loads, as a choice of addresses would break each into single numbers
            old_k_at = prefix_k + (last_word + column).to(tl.int64) * pk_key
            old_k = tl.load(old_k_at[None, :] + d[:, None], mask=old[None, :] & (d < WIDTH)[:, None], other=0.0)
            s = scores_of(q, tl.where(behind[None, :], k, old_k), scaling, 0.0, False)
            bits, shift = tl.where(behind[None, :], word[:, None], rest_word[:, None]), tl.where(behind, bit, column)
            seen = ((bits >> shift[None, :]) & 1 != 0) & (old[None, :] | (cell[:, None] == owner[None, :]))
            s = tl.where(seen, s, float("-inf"))
            v_at = suffix_v + (owner.to(tl.int64) * v_cell + (from_at + bit).to(tl.int64) * v_key)
            v = tl.load(v_at[:, None] + dv[None, :], mask=new[:, None] & (dv < WIDE)[None, :], other=0.0)
            old_v_at = prefix_v + (last_word + column).to(tl.int64) * pv_key
            old_v = tl.load(old_v_at[:, None] + dv[None, :], mask=old[:, None] & (dv < WIDE)[None, :], other=0.0)
            m, total, sums = _with_tile(m, total, sums, s, tl.where(behind[:, None], v, old_v))
        rest = 0

    z = sums * (1 / tl.where(total == 0, 1.0, total))[:, None]
    z_row = ((cell.to(tl.int64) * prompts + prompt) * queries + query) * (kv_heads * group) + head
    z_at = Z + z_row[:, None] * WIDE + dv[None, :]
    tl.store(z_at, z.to(Z.dtype.element_ty), mask=there[:, None] & (dv < WIDE)[None, :])


@no_type_check
@triton.jit
def _through_prefix(
    m, total, sums, q, words, there, prefix_k, prefix_v, k_key, v_key, scaling, start, stop,
    MASKED: tl.constexpr, STAGES: tl.constexpr, BN: tl.constexpr, WORD: tl.constexpr,
    WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`_with_tile` for the prefix keys from `start` up to before `stop`, BN at a time; where MASKED, BN is WORD."""
    d, dv, within = tl.arange(0, q.shape[1]), tl.arange(0, sums.shape[1]), tl.arange(0, BN)
    for from_key in tl.range(start, stop, BN, num_stages=STAGES):
        key = (from_key + within).to(tl.int64)
        k = tl.load(prefix_k + key[None, :] * k_key + d[:, None], mask=(d < WIDTH)[:, None], other=0.0)
        s = scores_of(q, k, scaling, 0.0, False)
        if MASKED:
            word = tl.load(words + from_key // WORD, mask=there, other=0)
            s = tl.where((word[:, None] >> within[None, :]) & 1 != 0, s, float("-inf"))
        v = tl.load(prefix_v + key[:, None] * v_key + dv[None, :], mask=(dv < WIDE)[None, :], other=0.0)
        m, total, sums = _with_tile(m, total, sums, s, v)
    return m, total, sums


@no_type_check
@triton.jit
def _with_tile(m, total, sums, s, v):
    """The running maximum, sum of weights and sum of values, with a tile's scores, in powers of 2, and its values."""
    highest = tl.maximum(m, tl.max(s, 1))
    safe = tl.where(highest == float("-inf"), 0.0, highest)
    p, shrink = tl.exp2(s - safe[:, None]), tl.exp2(m - safe)
    total = total * shrink + tl.sum(p, 1)
    return highest, total, product(p.to(v.dtype), v, sums * shrink[:, None])
