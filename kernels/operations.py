"""The operations that have a Triton kernel and a plain twin, each run as `headlens.kernels.dispatch` chooses."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.kernels import reference, reference_delta, reference_grouped, reference_stats
from headlens.kernels.dispatch import choice
from headlens.kernels.recalibration import Change, Groups, Recalibrated
from headlens.kernels.row_stats import RowStats
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
    """Recalibrated attention; see `headlens.kernels.reference_grouped.grouped_attention`."""
    given = (query, key, value, seen, scaling, groups, change, softcap, sinks)
    if not choice(query, key, value).kernel:
        return reference_grouped.grouped_attention(*given)
    from headlens.kernels.grouped_attention import grouped_attention as kernel

    return kernel(*given)


def shared_prefix_attention(
    query: Float[Tensor, "cell prompt head query d"],
    key: Float[Tensor, "cell prompt kv_head suffix d"],
    value: Float[Tensor, "cell prompt kv_head suffix d_value"],
    prefix_key: Float[Tensor, "prompt kv_head prefix d"],
    prefix_value: Float[Tensor, "prompt kv_head prefix d_value"],
    allowed: Bool[Tensor, "#prompt 1 query key"],
    scaling: float,
) -> Float[Tensor, "cell prompt query head d_value"]:
    """`z` of many variants of prompts; see `headlens.kernels.reference.shared_prefix_attention`."""
    given = (query, key, value, prefix_key, prefix_value, allowed, scaling)
    if not choice(query, key, value, prefix_key, prefix_value).kernel:
        return reference.shared_prefix_attention(*given)
    from headlens.kernels.shared_prefix_attention import shared_prefix_attention as kernel

    return kernel(*given)


def patched_outputs(
    attended: Float[Tensor, "prompt suffix d_model"],
    source: Float[Tensor, "prompt reach head d"],
    base: Float[Tensor, "prompt reach head d"],
    output_weights: Float[Tensor, "head d d_model"],
    cells: Int[Tensor, "cell heads_per_cell"],
) -> Float[Tensor, "cell prompt suffix d_model"]:
    """What attention says with some heads patched; see `headlens.kernels.reference_delta.patched_outputs`."""
    given = (attended, source, base, output_weights, cells)
    if not choice(source, base, output_weights.transpose(1, 2)).kernel:
        return reference_delta.patched_outputs(*given)
    from headlens.kernels.head_delta import patched_outputs as kernel

    return kernel(*given)


def row_stats(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    seen: Seen,
    scaling: float,
    **asked: Any,
) -> RowStats:
    """Numbers of each row of attention; see `headlens.kernels.reference_stats.row_stats` for what can be `asked`."""
    if not choice(query, key).kernel:
        return reference_stats.row_stats(query, key, seen, scaling, **asked)
    from headlens.kernels.head_stats import row_stats as kernel

    return kernel(query, key, seen, scaling, **asked)


def received(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    seen: Seen,
    scaling: float,
    lse: Float[Tensor, "batch head row"],
    counted: Bool[Tensor, "#batch row"],
    softcap: float | None = None,
) -> Float[Tensor, "batch head key"]:
    """The attention that each key is given; see `headlens.kernels.reference_stats.received`."""
    given = (query, key, seen, scaling, lse, counted)
    if not choice(query, key).kernel:
        return reference_stats.received(*given, softcap=softcap)
    from headlens.kernels.received_attention import received as kernel

    return kernel(*given, softcap=softcap)


def divergence(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    lse: Float[Tensor, "batch head row"],
    other_query: Float[Tensor, "batch head row d"],
    other_key: Float[Tensor, "batch kv_head key d"],
    other_lse: Float[Tensor, "batch head row"],
    seen: Seen,
    scaling: float,
    softcap: float | None = None,
) -> Float[Tensor, "batch head row"]:
    """How unlike the rows of two runs are; see `headlens.kernels.reference_stats.divergence`."""
    given = (query, key, lse, other_query, other_key, other_lse, seen, scaling)
    if not choice(query, key, other_query, other_key).kernel:
        return reference_stats.divergence(*given, softcap=softcap)
    from headlens.kernels.rows_divergence import divergence as kernel

    return kernel(*given, softcap=softcap)
