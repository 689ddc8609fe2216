"""Recalibrated attention on whole patterns: the definition of correct for `headlens.kernels.grouped_attention`."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headlens.kernels.algebra import group_masses, tempered, transferred
from headlens.kernels.recalibration import DONORS, RECEIVERS, Change, Groups, Recalibrated
from headlens.kernels.reference import attention_pattern, attention_scores, weighted_values
from headlens.kernels.seen import Seen


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
) -> Recalibrated:
    """What heads say under a change, and how their rows were before it.

    `softcap` and `sinks` are as in `headlens.kernels.reference.attention_scores` and `attention_pattern`. The `lse` of
    a row that sees no key is that of what is left to divide by: its learned sink's logit, or -inf.
    """
    allowed = seen.allowed(query.shape[2], key.shape[2], query.device)
    scores = attention_scores(query, key, allowed, scaling, softcap=softcap)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    empty = emptied = scores.amax(-1) == -torch.inf
    if change.tau is not None:
        scores = tempered(scores, change.tau)
    index = groups.each(seen.past, query.shape[2]).expand(scores.shape)
    before = attention_pattern(scores, sinks).masked_fill(empty[..., None], 0)
    pattern, idle = before, torch.zeros_like(empty)
    if change.multipliers is not None:
        reweighted = scores + _of_keys(change.multipliers.log(), index)
        emptied = reweighted.amax(-1) == -torch.inf
        pattern = attention_pattern(reweighted, sinks).masked_fill(emptied[..., None], 0)
    if change.beta is not None:
        pattern, idle = transferred(pattern, index == DONORS, index == RECEIVERS, change.beta[..., None])
    if change.kappa is not None:
        pattern = pattern * _of_keys(change.kappa, index)
    z = weighted_values(pattern.to(value.dtype), value)
    if change.gamma is not None:
        z = z * change.gamma.to(z.dtype).expand(empty.shape).transpose(1, 2)[..., None]
    masses = group_masses(before, index, groups.count)
    return Recalibrated(z, masses, _divisor(scores, sinks), idle, emptied & ~empty)


def _divisor(
    scores: Float[Tensor, "batch head row key"], sinks: Float[Tensor, " head"] | None
) -> Float[Tensor, "batch head row"]:
    over_keys = scores.logsumexp(-1)
    return over_keys if sinks is None else torch.logaddexp(over_keys, sinks[:, None].to(scores.dtype))


def _of_keys(
    of_groups: Float[Tensor, "#batch #head #row group"], index: UInt8[Tensor, "batch head row key"]
) -> Float[Tensor, "batch head row key"]:
    """Each key has its group's."""
    return of_groups.expand(*index.shape[:3], -1).gather(-1, index.long())
