"""Statistics of attention rows in one pass over the keys: no [row, key] tensor.

A program takes BM rows of one head and goes through the keys that they see, BN at a time, with a running maximum m and
sums of exp(s - m) times what each statistic weighs it with. A statistic of one key keeps that key's score. Statistics
whose output is None are not compiled.
"""

from collections.abc import Set
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from headlens.kernels.launch import launch, program
from headlens.kernels.row_stats import RowStats, check
from headlens.kernels.score_tiles import all_seen, call, columns, dense, prompt_keys, seen_scores, sizes, vectors
from headlens.kernels.seen import Seen
from headlens.kernels.tiles import key_range


def row_stats(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    seen: Seen,
    scaling: float,
    *,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
    what: Set[str] = frozenset(),
    row_tokens: Int[Tensor, "batch row"] | None = None,
    key_tokens: Int[Tensor, "batch key"] | None = None,
    groups: UInt8[Tensor, "#batch #head #*row key"] | None = None,
    n_groups: int = 0,
    tile: tuple[int, int] | None = None,
) -> RowStats:
    """As `headlens.kernels.reference_stats.row_stats`, which says what it means. `tile` is (BM, BN).

    The `lse` of a row that sees no key is its learned sink's logit here too, or -inf without one.
    """
    check(what, row_tokens, key_tokens, groups, n_groups)
    (batch, heads, rows), keys = query.shape[:3], key.shape[2]
    query, key = dense(query), dense(key)
    found = _empty(what, (batch, heads, rows), n_groups, query.device)
    by_row, in_groups = False, (0, 0, 0)
    if groups is not None:
        groups = dense(groups.reshape(*groups.shape[:2], -1, keys))
        by_row, in_groups = groups.shape[2] > 1, groups.expand(batch, heads, rows, keys).stride()[:3]
    tokens = [None if each is None else dense(each) for each in (row_tokens, key_tokens)]
    size = sizes(query, tile)
    launch(
        _row_stats, batch * heads * triton.cdiv(rows, size["BM"]),
        query, key, *query.stride()[:3], *key.stride()[:3], *call(query, key, seen), scaling, softcap,
        None if sinks is None else sinks.contiguous(), *tokens,
        *(0 if each is None else each.stride(0) for each in tokens), groups, *in_groups,
        found.lse, found.entropy, found.first, found.previous, found.own, found.distance, found.duplicate,
        found.has_duplicate, found.induction, found.has_induction, found.top_key, found.top_mass, found.masses,
        CAUSAL=seen.causal, BY_ROW=by_row, COUNT=n_groups, G=triton.next_power_of_2(n_groups or 1), **size,
    )  # fmt: skip
    return found


def _empty(what: Set[str], shape: tuple[int, int, int], n_groups: int, device: torch.device) -> RowStats:
    """What the kernel is to fill."""

    def of(name: str, dtype: torch.dtype = torch.float32) -> Tensor | None:
        return torch.empty(shape, dtype=dtype, device=device) if name in what else None

    return RowStats(
        lse=torch.empty(shape, device=device),
        entropy=of("entropy"),
        first=of("first"),
        previous=of("previous"),
        own=of("self"),
        distance=of("distance"),
        duplicate=of("duplicate"),
        has_duplicate=of("duplicate", torch.bool),
        induction=of("induction"),
        has_induction=of("induction", torch.bool),
        top_key=of("top", torch.int64),
        top_mass=of("top"),
        masses=torch.empty(*shape, n_groups, device=device) if n_groups else None,
    )


@no_type_check
@triton.jit
def _row_stats(
    Q, K, q_batch, q_head, q_row, k_batch, k_head, k_key,
    SEEN_FIRST, SEEN_END, SEEN_MASK, m_batch, m_head, m_row, m_key, heads, group, rows, keys, past, window,
    scaling, softcap, SINKS, ROW_TOKENS, KEY_TOKENS, row_tokens_batch, key_tokens_batch,
    GROUPS, g_batch, g_head, g_row,
    LSE, ENTROPY, FIRST, PREVIOUS, OWN, DISTANCE, DUPLICATE, HAS_DUPLICATE, INDUCTION, HAS_INDUCTION,
    TOP_KEY, TOP_MASS, MASSES,
    CAUSAL: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BY_ROW: tl.constexpr, COUNT: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(rows, BM)
    tile, batch, head = program(tiles, heads)
    # the rows that see most keys start first
    row = (tiles - 1 - tile) * BM + tl.arange(0, BM)
    there, at = row < rows, past + row
    low, high = past + tl.min(row, 0), past + tl.minimum(tl.max(row, 0), rows - 1)
    first, end = prompt_keys(SEEN_FIRST, SEEN_END, batch, keys)
    start, stop = key_range(first, end, low, high, window, CAUSAL, window is not None, BN)
    q = vectors(Q + batch * q_batch + head * q_head, row, q_row, rows, WIDTH, D)
    k_start = K + batch * k_batch + (head // group) * k_head
    mask = SEEN_MASK
    if SEEN_MASK is not None:
        mask = SEEN_MASK + batch * m_batch + head * m_head
    if ROW_TOKENS is not None:
        row_tokens = tl.load(ROW_TOKENS + batch * row_tokens_batch + row, mask=there, other=-1).to(tl.int32)
        key_tokens = KEY_TOKENS + batch * key_tokens_batch

    m = tl.full((BM,), float("-inf"), tl.float32)
    to_first, to_previous, to_own = m, m, m
    total, top = tl.zeros_like(m), tl.zeros_like(row)
    logs, distance, duplicate, induction = total, total, total, total
    duplicates, inductions = top, top
    if GROUPS is not None:
        g = tl.arange(0, G)
        masses = tl.zeros((BM, G), tl.float32)
    for from_key in range(start, stop, BN):
        key = from_key + tl.arange(0, BN)
        k = columns(k_start, key, k_key, keys, WIDTH, D)
        whole = all_seen(from_key, low, high, first, end, window, mask is not None, CAUSAL, BN)
        s = seen_scores(
            q, k, row, past, key, rows, first, end, window, mask, m_row, m_key, whole, scaling, softcap, CAUSAL
        )
        if TOP_KEY is not None:
            most, place = tl.max(s, 1, return_indices=True)
            top = tl.where(most > m, from_key + place, top)
        else:
            most = tl.max(s, 1)
        highest = tl.maximum(m, most)
        safe = tl.where(highest == float("-inf"), 0.0, highest)
        below = s - safe[:, None]
        p = tl.exp(below)
        shrink = tl.exp(m - safe)
        if ENTROPY is not None:
            # sum of p ln p: what is summed so far falls with the maximum's rise
            rise = tl.where(total == 0, 0.0, safe - m)
            logs = (logs - total * rise) * shrink + tl.sum(p * tl.where(p > 0, below, 0.0), 1)
        total = total * shrink + tl.sum(p, 1)
        m = highest
        if FIRST is not None:
            if (from_key <= first) & (first < from_key + BN):
                to_first = _score_of(to_first, s, key, tl.zeros_like(row) + first)
        if PREVIOUS is not None:
            if (from_key < high) & (from_key + BN >= low):
                to_previous = _score_of(to_previous, s, key, at - 1)
        if OWN is not None:
            if (from_key <= high) & (from_key + BN > low):
                to_own = _score_of(to_own, s, key, at)
        if DISTANCE is not None:
            distance = distance * shrink + tl.sum(p * tl.abs(at[:, None] - key[None, :]).to(tl.float32), 1)
        if DUPLICATE is not None:
            copies = _copies(row_tokens, at, key_tokens, key, keys)
            duplicate = duplicate * shrink + tl.sum(tl.where(copies, p, 0.0), 1)
            duplicates = tl.maximum(duplicates, tl.max((copies & (s > float("-inf"))).to(tl.int32), 1))
        if INDUCTION is not None:
            copies = _copies(row_tokens, at, key_tokens, key - 1, keys)
            induction = induction * shrink + tl.sum(tl.where(copies, p, 0.0), 1)
            inductions = tl.maximum(inductions, tl.max((copies & (s > float("-inf"))).to(tl.int32), 1))
        if GROUPS is not None:
            bits = _bits(GROUPS + batch * g_batch + head * g_head, row, g_row, rows, key, keys, BY_ROW)
            masses = masses * shrink[:, None]
            for each in tl.static_range(COUNT):
                inside = tl.sum(tl.where((bits >> each) & 1 == 1, p, 0.0), 1)
                masses += tl.where(g[None, :] == each, inside[:, None], 0.0)

    # the learned sink takes its share; `gap` is the logarithm of what the highest key has
    highest = m
    if SINKS is not None:
        learned = tl.load(SINKS + head).to(tl.float32)
        highest = tl.maximum(m, learned)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    divisor = total * tl.exp(m - highest)
    if SINKS is not None:
        divisor += tl.exp(learned - highest)
    nothing = divisor == 0
    log_divisor = tl.log(tl.where(nothing, 1.0, divisor))
    safe = tl.where(total == 0, highest, m)
    gap = safe - highest - log_divisor
    share = tl.exp(gap)
    out = (batch * heads + head) * rows + row
    tl.store(LSE + out, tl.where(nothing, float("-inf"), highest + log_divisor), mask=there)
    if ENTROPY is not None:
        tl.store(ENTROPY + out, -share * (logs + total * gap), mask=there)
    if FIRST is not None:
        tl.store(FIRST + out, tl.exp(to_first - safe + gap), mask=there)
    if PREVIOUS is not None:
        tl.store(PREVIOUS + out, tl.exp(to_previous - safe + gap), mask=there)
    if OWN is not None:
        tl.store(OWN + out, tl.exp(to_own - safe + gap), mask=there)
    if DISTANCE is not None:
        tl.store(DISTANCE + out, distance / tl.where(total == 0, 1.0, total), mask=there)
    if DUPLICATE is not None:
        tl.store(DUPLICATE + out, duplicate * share, mask=there)
        tl.store(HAS_DUPLICATE + out, duplicates > 0, mask=there)
    if INDUCTION is not None:
        tl.store(INDUCTION + out, induction * share, mask=there)
        tl.store(HAS_INDUCTION + out, inductions > 0, mask=there)
    if TOP_KEY is not None:
        tl.store(TOP_KEY + out, top.to(tl.int64), mask=there)
        tl.store(TOP_MASS + out, tl.where(total == 0, 0.0, share), mask=there)
    if GROUPS is not None:
        of_groups = MASSES + out[:, None] * COUNT + g[None, :]
        tl.store(of_groups, masses * share[:, None], mask=there[:, None] & (g < COUNT)[None, :])


@no_type_check
@triton.jit
def _score_of(found, s, key, wanted):
    """The score of one key of each row, if it is in this tile."""
    return tl.maximum(found, tl.max(tl.where(key[None, :] == wanted[:, None], s, float("-inf")), 1))


@no_type_check
@triton.jit
def _copies(row_tokens, at, key_tokens, key, keys):
    """Which of the tokens at `key`, in front of a row, are equal to the row's."""
    tokens = tl.load(key_tokens + key, mask=(key >= 0) & (key < keys), other=-2).to(tl.int32)
    return (row_tokens[:, None] == tokens[None, :]) & (key[None, :] < at[:, None])


@no_type_check
@triton.jit
def _bits(groups, row, g_row, rows, key, keys, BY_ROW: tl.constexpr):
    """The groups of each key, as one row or as one for each row."""
    if BY_ROW:
        where = groups + row[:, None].to(tl.int64) * g_row + key[None, :]
        bits = tl.load(where, mask=(row < rows)[:, None] & (key < keys)[None, :], other=0)
    else:
        bits = tl.load(groups + key, mask=key < keys, other=0)[None, :]
    return bits.to(tl.int32)
