"""How much rows of attention differ between two runs, in one pass over both runs' keys."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from headlens.kernels.launch import launch, program
from headlens.kernels.score_tiles import all_seen, call, columns, dense, prompt_keys, seen_scores, sizes, vectors
from headlens.kernels.seen import Seen
from headlens.kernels.tiles import key_range


def divergence(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    lse: Float[Tensor, "batch head row"],
    other_query: Float[Tensor, "batch head row d"],
    other_key: Float[Tensor, "batch kv_head key d"],
    other_lse: Float[Tensor, "batch head row"],
    seen: Seen,
    scaling: float,
    *,
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> Float[Tensor, "batch head row"]:
    """As `headlens.kernels.reference_stats.divergence`, which says what it means. `tile` is (BM, BN)."""
    batch, heads, rows = query.shape[:3]
    query, key, other_query, other_key = (dense(each) for each in (query, key, other_query, other_key))
    apart = torch.empty(batch, heads, rows, device=query.device)
    size = sizes(query, tile)
    launch(
        _divergence, batch * heads * triton.cdiv(rows, size["BM"]),
        query, key, *query.stride()[:3], *key.stride()[:3], *call(query, key, seen), scaling, softcap,
        other_query, other_key, *other_query.stride()[:3], *other_key.stride()[:3],
        lse.contiguous(), other_lse.contiguous(), apart,
        CAUSAL=seen.causal, **size,
    )  # fmt: skip
    return apart


@no_type_check
@triton.jit
def _divergence(
    Q, K, q_batch, q_head, q_row, k_batch, k_head, k_key,
    SEEN_FIRST, SEEN_END, SEEN_MASK, m_batch, m_head, m_row, m_key, heads, group, rows, keys, past, window,
    scaling, softcap, OTHER_Q, OTHER_K, oq_batch, oq_head, oq_row, ok_batch, ok_head, ok_key,
    LSE, OTHER_LSE, APART,
    CAUSAL: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(rows, BM)
    tile, batch, head = program(tiles, heads)
    # the rows that see most keys start first
    row = (tiles - 1 - tile) * BM + tl.arange(0, BM)
    there = row < rows
    low, high = past + tl.min(row, 0), past + tl.minimum(tl.max(row, 0), rows - 1)
    first, end = prompt_keys(SEEN_FIRST, SEEN_END, batch, keys)
    start, stop = key_range(first, end, low, high, window, CAUSAL, window is not None, BN)
    q = vectors(Q + batch * q_batch + head * q_head, row, q_row, rows, WIDTH, D)
    other_q = vectors(OTHER_Q + batch * oq_batch + head * oq_head, row, oq_row, rows, WIDTH, D)
    k_start = K + batch * k_batch + (head // group) * k_head
    other_k_start = OTHER_K + batch * ok_batch + (head // group) * ok_head
    out = (batch * heads + head) * rows + row
    lse, other_lse = tl.load(LSE + out, mask=there, other=0.0), tl.load(OTHER_LSE + out, mask=there, other=0.0)
    # a row that sees no key has -inf, and exp(-inf - 0) is 0
    lse = tl.where(lse == float("-inf"), 0.0, lse)
    other_lse = tl.where(other_lse == float("-inf"), 0.0, other_lse)
    mask = SEEN_MASK
    if SEEN_MASK is not None:
        mask = SEEN_MASK + batch * m_batch + head * m_head
    apart = tl.zeros((BM,), tl.float32)
    for from_key in range(start, stop, BN):
        key = from_key + tl.arange(0, BN)
        k = columns(k_start, key, k_key, keys, WIDTH, D)
        other_k = columns(other_k_start, key, ok_key, keys, WIDTH, D)
        whole = all_seen(from_key, low, high, first, end, window, mask is not None, CAUSAL, BN)
        s = seen_scores(
            q, k, row, past, key, rows, first, end, window, mask, m_row, m_key, whole, scaling, softcap, CAUSAL
        )
        other_s = seen_scores(
            other_q, other_k, row, past, key, rows, first, end, window, mask, m_row, m_key, whole, scaling, softcap,
            CAUSAL,
        )  # fmt: skip
        apart += tl.sum(_of_shares(tl.exp(s - lse[:, None]), tl.exp(other_s - other_lse[:, None])), 1)
    tl.store(APART + out, apart, mask=there)


@no_type_check
@triton.jit
def _of_shares(a, b):
    """What one key adds: (a ln(a / m) + b ln(b / m)) / 2 with m = (a + b) / 2.

    With a = m (1 + x) and b = m (1 - x) it is m ((1 + x) ln(1 + x) + (1 - x) ln(1 - x)) / 2, whose first terms are
    m (x^2 + x^4 / 6 + x^6 / 15 + x^8 / 28 + x^10 / 45) / 2: so it keeps its digits where a and b are nearly equal.
    """
    twice = a + b
    x = tl.abs(a - b) / tl.where(twice == 0, 1.0, twice)
    y = x * x
    near = y * (1 + y * (1 / 6 + y * (1 / 15 + y * (1 / 28 + y / 45))))
    less = tl.where(x < 1, 1 - x, 1.0)
    far = (1 + x) * tl.log(1 + x) + less * tl.log(less)
    return 0.25 * twice * tl.where(x < 0.25, near, far)
