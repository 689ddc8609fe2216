"""What each key is given by rows: a second pass over the scores, with the rows' log-sum-exp from the first.

A program takes BN keys of one head and goes through the rows that can see them, BM at a time, always in the same order:
no two programs add to one number.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.kernels.launch import launch, program
from headlens.kernels.score_tiles import all_seen, bits, call, columns, dense, prompt_keys, seen_scores, sizes, vectors
from headlens.kernels.seen import Seen


def received(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    seen: Seen,
    scaling: float,
    lse: Float[Tensor, "batch head row"],
    counted: Bool[Tensor, "#batch row"],
    *,
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> Float[Tensor, "batch head key"]:
    """As `headlens.kernels.reference_stats.received`, which says what it means. `tile` is (BM, BN)."""
    (batch, heads, rows), keys = query.shape[:3], key.shape[2]
    query, key, lse = dense(query), dense(key), lse.contiguous()
    counted = bits(dense(counted), batch, rows)
    given = torch.empty(batch, heads, keys, device=query.device)
    size = sizes(query, tile)
    launch(
        _received, batch * heads * triton.cdiv(keys, size["BN"]),
        query, key, *query.stride()[:3], *key.stride()[:3], *call(query, key, seen), scaling, softcap,
        lse, counted, counted.stride(0), given,
        CAUSAL=seen.causal, **size,
    )  # fmt: skip
    return given


@no_type_check
@triton.jit
def _received(
    Q, K, q_batch, q_head, q_row, k_batch, k_head, k_key,
    SEEN_FIRST, SEEN_END, SEEN_MASK, m_batch, m_head, m_row, m_key, heads, group, rows, keys, past, window,
    scaling, softcap, LSE, COUNTED, counted_batch, GIVEN,
    CAUSAL: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    tile, batch, head = program(tl.cdiv(keys, BN), heads)
    from_key = tile * BN
    key = from_key + tl.arange(0, BN)
    first, end = prompt_keys(SEEN_FIRST, SEEN_END, batch, keys)
    start, stop = 0, rows
    if CAUSAL:
        start = tl.maximum(from_key - past, 0) // BM * BM
    if window is not None:
        stop = tl.minimum(stop, from_key + BN - 1 + window - past)
    if (from_key >= end) | (from_key + BN <= first):
        stop = 0
    k = columns(K + batch * k_batch + (head // group) * k_head, key, k_key, keys, WIDTH, D)
    q_start = Q + batch * q_batch + head * q_head
    mask = SEEN_MASK
    if SEEN_MASK is not None:
        mask = SEEN_MASK + batch * m_batch + head * m_head
    given = tl.zeros((BM, BN), tl.float32)
    for from_row in range(start, stop, BM):
        row = from_row + tl.arange(0, BM)
        q = vectors(q_start, row, q_row, rows, WIDTH, D)
        counted = tl.load(COUNTED + batch * counted_batch + row, mask=row < rows, other=0) != 0
        lse = tl.load(LSE + (batch * heads + head) * rows + row, mask=counted, other=0.0)
        # a row that sees no key gives none
        lse = tl.where(lse == float("-inf"), 0.0, lse)
        low, high = past + from_row, past + from_row + BM - 1
        whole = all_seen(from_key, low, high, first, end, window, mask is not None, CAUSAL, BN)
        s = seen_scores(
            q, k, row, past, key, rows, first, end, window, mask, m_row, m_key, whole, scaling, softcap, CAUSAL
        )
        given += tl.exp(tl.where(counted[:, None], s - lse[:, None], float("-inf")))
    tl.store(GIVEN + (batch * heads + head) * keys + key, tl.sum(given, 0), mask=key < keys)
