"""Recalibrated attention in one pass over the keys: no [row, key] tensor, and group masses beside the answer.

A program takes BM rows of one head. It goes through the keys that they see, BN at a time, with a running maximum m, and
keeps for each row the sum of exp(s - m) of every group, and the weighted sum of values. What depends on masses, which
are known only at the end, is applied there: a transfer therefore keeps three sums of values, of bystanders, donors and
receivers (skipping those of which a tile has none).
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from headlens.kernels.algebra import LEAST
from headlens.kernels.launch import launch, program
from headlens.kernels.recalibration import MOST_GROUPS, Change, Groups, Recalibrated
from headlens.kernels.seen import Seen
from headlens.kernels.tiles import key_range, product, scores_of, seen_in

# Rows and keys of a tile, and warps, for heads up to so wide: such that the sums of one program stay in registers,
# by what the compiler says for compute capability 9.0.
_TILES = {
    "half": {64: (128, 64, 8), 128: (128, 32, 8), 256: (32, 32, 8)},
    "half transfer": {64: (64, 32, 4), 128: (64, 32, 8), 256: (32, 32, 8)},
    "float": {64: (64, 32, 8), 128: (32, 32, 8), 256: (16, 16, 4)},
    "float transfer": {64: (32, 32, 4), 128: (32, 32, 8), 256: (16, 16, 4)},
}
# Columns of a row's settings: tau, beta, gamma, a multiplier for each group, and a kappa for each.
_TAU, _BETA, _GAMMA, _MULTIPLIERS, _KAPPA = 0, 1, 2, 3, 3 + MOST_GROUPS
_SETTINGS = 3 + 2 * MOST_GROUPS


def grouped_attention(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    value: Float[Tensor, "batch kv_head key d_value"],
    seen: Seen,
    scaling: float,
    groups: Groups,
    change: Change,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
    tile: tuple[int, int, int] | None = None,
) -> Recalibrated:
    """As `headlens.kernels.reference_grouped.grouped_attention`, which says what it means.

    The `lse` of a row that sees no key is its learned sink's logit here too, or -inf without one. `tile` is
    (BM, BN, warps).
    """
    (batch, heads, rows, width), (kv_heads, keys), wide = query.shape, key.shape[1:3], value.shape[3]
    query, key, value = (each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value))
    z = torch.empty(batch, rows, heads, wide, dtype=value.dtype, device=query.device)
    masses = torch.empty(batch, heads, rows, groups.count, device=query.device)
    lse = torch.empty(batch, heads, rows, device=query.device)
    idle, emptied = torch.empty(2, batch, heads, rows, dtype=torch.bool, device=query.device)
    settings = _settings(change, query.device)
    index = groups.index if groups.index.stride(-1) == 1 else groups.index.contiguous()
    of_row, of_index = settings.expand(batch, heads, rows, -1), index.expand(batch, heads, rows, -1)
    mask = None if seen.mask is None else seen.mask.view(torch.uint8).expand(batch, heads, rows, -1)
    newest, newest_group = groups.recent or (0, 0)
    transfer = change.beta is not None
    kind = ("half" if query.dtype.itemsize == 2 else "float") + (" transfer" if transfer else "")
    bm, bn, warps = tile or next(tile for most, tile in _TILES[kind].items() if max(width, wide) <= most)
    launch(
        _grouped_attention, batch * heads * triton.cdiv(rows, bm),
        query, key, value, index, settings, sinks, seen.first, seen.end, mask, z, masses, lse, idle, emptied,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *of_index.stride()[:3], *of_row.stride()[:3],
        *(mask.stride() if mask is not None else (0, 0, 0, 0)),
        heads, heads // kv_heads, rows, keys, seen.past, seen.window or 0, newest, newest_group,
        scaling, softcap or 0.0, LEAST,
        WIDTH=width, WIDE=wide, D=_padded(width), DV=_padded(wide), BM=bm, BN=bn, COUNT=groups.count,
        CAUSAL=seen.causal, WINDOW=seen.window is not None, FIRST=seen.first is not None, END=seen.end is not None,
        MASK=mask is not None, SOFTCAP=softcap is not None, SINKS=sinks is not None,
        INDEX_BY_ROW=index.shape[2] > 1,
        RECENT=groups.recent is not None, TAU=change.tau is not None,
        WEIGHTED=change.multipliers is not None or change.kappa is not None, TRANSFER=transfer,
        UPCAST=value.dtype == torch.float16 and (transfer or change.multipliers is not None),
        num_warps=warps, num_stages=2,
    )  # fmt: skip
    return Recalibrated(z, masses, lse, idle, emptied)


def _padded(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


def _settings(change: Change, device: torch.device) -> Float[Tensor, "#batch #head #row setting"]:
    """All of a change in one tensor, no larger than its own parts are together."""
    parts = [change.tau, change.beta, change.gamma]
    known = [part for part in parts if part is not None]
    known += [part[..., 0] for part in (change.multipliers, change.kappa) if part is not None]
    shape = torch.broadcast_shapes((1, 1, 1), *(part.shape for part in known))
    settings = torch.ones(*shape, _SETTINGS, device=device)
    for column, part in zip((_TAU, _BETA, _GAMMA), parts, strict=True):
        if part is not None:
            settings[..., column] = part
    for column, part in ((_MULTIPLIERS, change.multipliers), (_KAPPA, change.kappa)):
        if part is not None:
            settings[..., column : column + part.shape[-1]] = part
    return settings


@no_type_check
@triton.jit
def _grouped_attention(
    Q, K, V, INDEX, ROWS, SINK, FIRST_KEY, END_KEY, SEEN, Z, MASSES, LSE, IDLE, EMPTIED,
    q_batch, q_head, q_row, k_batch, k_head, k_key, v_batch, v_head, v_key,
    i_batch, i_head, i_row, r_batch, r_head, r_row, s_batch, s_head, s_row, s_key,
    heads, group, rows, keys, past, window, newest, newest_group, scaling, softcap, least,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    COUNT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, FIRST: tl.constexpr, END: tl.constexpr,
    MASK: tl.constexpr, SOFTCAP: tl.constexpr, SINKS: tl.constexpr,
    INDEX_BY_ROW: tl.constexpr, RECENT: tl.constexpr, TAU: tl.constexpr, WEIGHTED: tl.constexpr,
    TRANSFER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(rows, BM)
    tile, batch, head = program(tiles, heads)
    # the rows that see most keys start first
    row = (tiles - 1 - tile) * BM + tl.arange(0, BM)
    there, at = row < rows, past + row
    far = row.to(tl.int64)
    d, dv = tl.arange(0, D), tl.arange(0, DV)
    q_at = Q + batch * q_batch + head * q_head + far[:, None] * q_row + d[None, :]
    q = tl.load(q_at, mask=there[:, None] & (d < WIDTH)[None, :], other=0.0)
    k_of, v_of = K + batch * k_batch + (head // group) * k_head, V + batch * v_batch + (head // group) * v_head
    i_of, s_of = INDEX + batch * i_batch + head * i_head, SEEN
    if MASK:
        s_of += batch * s_batch + head * s_head
    settings = ROWS + batch * r_batch + head * r_head + far * r_row
    first, end = 0, keys
    if FIRST:
        first = tl.load(FIRST_KEY + batch).to(tl.int32)
    if END:
        end = tl.minimum(end, tl.load(END_KEY + batch).to(tl.int32))
    low = past + tl.min(row, 0)
    high = past + tl.minimum(tl.max(row, 0), rows - 1)
    start, stop = key_range(first, end, low, high, window, CAUSAL, WINDOW, BN)
    # from `inner` up to `outer` every row sees every key
    inner, outer = first, stop
    if WINDOW:
        inner = tl.maximum(inner, high - window + 1)
    if CAUSAL:
        outer = tl.minimum(outer, low + 1)
    inner = tl.maximum(start, tl.cdiv(tl.maximum(inner, 0), BN) * BN)
    outer = tl.maximum(inner, (outer // BN) * BN)
    if MASK:
        inner = tl.maximum(start, tl.cdiv(tl.maximum(stop, 0), BN) * BN)
        outer = inner
    m = tl.full((BM,), float("-inf"), tl.float32)
    l0, l1, l2, l3 = tl.zeros_like(m), tl.zeros_like(m), tl.zeros_like(m), tl.zeros_like(m)
    bystanders = tl.zeros((BM, DV), tl.float32)
    donors, receivers = bystanders, bystanders
    tau, w0, w1, w2, w3 = m, m, m, m, m
    if TAU:
        tau = tl.load(settings, mask=there, other=1.0)
    if WEIGHTED:
        w0 = tl.load(settings + 3, mask=there, other=1.0) * tl.load(settings + 7, mask=there, other=1.0)
        w1 = tl.load(settings + 4, mask=there, other=1.0) * tl.load(settings + 8, mask=there, other=1.0)
        w2 = tl.load(settings + 5, mask=there, other=1.0) * tl.load(settings + 9, mask=there, other=1.0)
        w3 = tl.load(settings + 6, mask=there, other=1.0) * tl.load(settings + 10, mask=there, other=1.0)
    # three stretches: the edge in front, what every row sees, and the edge behind
    for stretch in tl.static_range(3):
        begin, finish = start, tl.minimum(inner, stop)
        if stretch == 1:
            begin, finish = inner, outer
        if stretch == 2:
            begin, finish = outer, stop
        for from_key in range(begin, finish, BN):
            key = from_key + tl.arange(0, BN)
            near = key < keys
            far_key = key.to(tl.int64)
            k = tl.load(
                k_of + far_key[None, :] * k_key + d[:, None], mask=near[None, :] & (d < WIDTH)[:, None], other=0.0
            )
            s = scores_of(q, k, scaling, softcap, SOFTCAP)
            if TAU:
                s = s * tau[:, None]
            if stretch != 1:
                seen = seen_in(at, key, first, end, window, s_of, s_row, s_key, there, CAUSAL, WINDOW, MASK, row)
                s = tl.where(seen, s, float("-inf"))
            highest = tl.maximum(m, tl.max(s, 1))
            safe = tl.where(highest == float("-inf"), 0.0, highest)
            p = tl.exp(s - safe[:, None])
            shrink = tl.exp(m - safe)
            m = highest
            if INDEX_BY_ROW:
                of = tl.load(
                    i_of + far[:, None] * i_row + far_key[None, :], mask=there[:, None] & near[None, :], other=0
                ).to(tl.int32)
            else:
                of = tl.load(i_of + far_key, mask=near, other=0).to(tl.int32)[None, :]
            if RECENT:
                ago = at[:, None] - key[None, :]
                of = tl.where((ago >= 0) & (ago < newest), newest_group, of)
            l0 = l0 * shrink + tl.sum(tl.where(of == 0, p, 0.0), 1)
            if COUNT > 1:
                l1 = l1 * shrink + tl.sum(tl.where(of == 1, p, 0.0), 1)
            if COUNT > 2:
                l2 = l2 * shrink + tl.sum(tl.where(of == 2, p, 0.0), 1)
            if COUNT > 3:
                l3 = l3 * shrink + tl.sum(tl.where(of == 3, p, 0.0), 1)
            if WEIGHTED:
                weight = tl.where(of == 0, w0[:, None], w1[:, None])
                if COUNT > 2:
                    weight = tl.where(of == 2, w2[:, None], weight)
                if COUNT > 3:
                    weight = tl.where(of == 3, w3[:, None], weight)
                p = p * weight
            v = tl.load(
                v_of + far_key[:, None] * v_key + dv[None, :], mask=near[:, None] & (dv < WIDE)[None, :], other=0.0
            )
            if TRANSFER:
                donors, receivers = donors * shrink[:, None], receivers * shrink[:, None]
                bystanders = bystanders * shrink[:, None]
                giving, taking = of == 1, of == 2
                if tl.max(tl.max(giving.to(tl.int32), 1), 0) > 0:
                    donors = _plus(donors, tl.where(giving, p, 0.0), v, UPCAST)
                if tl.max(tl.max(taking.to(tl.int32), 1), 0) > 0:
                    receivers = _plus(receivers, tl.where(taking, p, 0.0), v, UPCAST)
                if tl.min(tl.min((giving | taking).to(tl.int32), 1), 0) == 0:
                    bystanders = _plus(bystanders, tl.where(giving | taking, 0.0, p), v, UPCAST)
            else:
                bystanders = _plus(bystanders * shrink[:, None], p, v, UPCAST)
    # the learned sink takes its share, which may be nearly all: its weight and `shrink`, the keys', are 1 at most
    highest, learned = m, tl.zeros_like(m)
    if SINKS:
        logit = tl.load(SINK + head).to(tl.float32)
        highest = tl.maximum(m, logit)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    shrink = tl.exp(m - highest)
    if SINKS:
        learned += tl.exp(logit - highest)
    total = (l0 + l1 + l2 + l3) * shrink + learned
    divisor = tl.where(total == 0, 1.0, total)
    share = shrink / divisor
    out = (batch * heads + head) * rows + far
    tl.store(LSE + out, tl.where(total == 0, float("-inf"), highest + tl.log(divisor)), mask=there)
    tl.store(MASSES + out * COUNT, l0 * share, mask=there)
    if COUNT > 1:
        tl.store(MASSES + out * COUNT + 1, l1 * share, mask=there)
    if COUNT > 2:
        tl.store(MASSES + out * COUNT + 2, l2 * share, mask=there)
    if COUNT > 3:
        tl.store(MASSES + out * COUNT + 3, l3 * share, mask=there)
    emptied = tl.zeros((BM,), tl.int1)
    if WEIGHTED:
        seeing = l0 + l1 + l2 + l3 > 0
        l0 = l0 * tl.load(settings + 3, mask=there, other=1.0)
        l1 = l1 * tl.load(settings + 4, mask=there, other=1.0)
        l2 = l2 * tl.load(settings + 5, mask=there, other=1.0)
        l3 = l3 * tl.load(settings + 6, mask=there, other=1.0)
        emptied = seeing & (l0 + l1 + l2 + l3 == 0)
        total = (l0 + l1 + l2 + l3) * shrink + learned
        share = shrink / tl.where(total == 0, 1.0, total)
    z, waiting = bystanders, tl.zeros((BM,), tl.int1)
    if TRANSFER:
        beta = tl.load(settings + 1, mask=there, other=1.0)
        given, taken = (1 - beta) * l1 * share, l2 * share
        waiting = ((1 - beta) * l1 > 0) & (taken < least)
        given = tl.where(waiting, 0.0, given)
        keeping = tl.where(waiting, 1.0, beta)
        z += donors * keeping[:, None] + receivers * (1 + given / tl.maximum(taken, least))[:, None]
    gamma = tl.load(settings + 2, mask=there, other=1.0)
    z = z * (share * gamma)[:, None]
    tl.store(IDLE + out, waiting, mask=there)
    tl.store(EMPTIED + out, emptied, mask=there)
    z_at = Z + ((batch * rows + far) * heads + head)[:, None] * WIDE + dv[None, :]
    tl.store(z_at, z.to(Z.dtype.element_ty), mask=there[:, None] & (dv < WIDE)[None, :])


@no_type_check
@triton.jit
def _plus(sums, p, v, UPCAST: tl.constexpr):
    """sums + p v. Small float16 weights would be 0, so where they may be scaled up later the product is of tf32."""
    if UPCAST:
        return tl.dot(p, v.to(tl.float32), sums, input_precision="tf32")
    return product(p.to(v.dtype), v, sums)
