"""`transformer_lens.patching` with headlens's replay engine inside: the same names, arguments and results.

    from headlens.compat import patching      # instead of: from transformer_lens import patching

Each `get_act_patch_*` takes (model, corrupted_tokens, clean_cache, patching_metric) and the keyword arguments of
`generic_activation_patch`, and returns the metric of each patched run: a tensor of the shape that its docstring gives,
or a PatchingResult. The model is a TransformerBridge or a headlens Model. Values are those of TransformerLens within
1e-4, and are the metric itself: no fraction of the clean-corrupted difference. At q, k and v of models with grouped
queries "head" counts key/value heads at k and v.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformer_lens.patching import (
    PatchingResult,
    layer_head_dest_src_pos_pattern_patch_setter,
    layer_head_pattern_patch_setter,
    layer_head_pos_pattern_patch_setter,
    layer_head_vector_patch_setter,
    layer_pos_head_vector_patch_setter,
    layer_pos_patch_setter,
    make_df_from_ranges,
)

from headlens.compat.direct_paths import get_act_patch_direct_path, get_act_patch_direct_path_all_sources
from headlens.compat.every import Type, side_by_side
from headlens.compat.generic import generic_activation_patch
from headlens.compat.runner import Cache

__all__ = [
    "PatchingResult",
    "generic_activation_patch",
    "get_act_patch_attn_head_all_pos_every",
    "get_act_patch_attn_head_by_pos_every",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_k_by_pos",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_out_by_pos",
    "get_act_patch_attn_head_pattern_all_pos",
    "get_act_patch_attn_head_pattern_by_pos",
    "get_act_patch_attn_head_pattern_dest_src_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_q_by_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_v_by_pos",
    "get_act_patch_attn_out",
    "get_act_patch_block_every",
    "get_act_patch_direct_path",
    "get_act_patch_direct_path_all_sources",
    "get_act_patch_mlp_out",
    "get_act_patch_resid_mid",
    "get_act_patch_resid_pre",
    "layer_head_dest_src_pos_pattern_patch_setter",
    "layer_head_pattern_patch_setter",
    "layer_head_pos_pattern_patch_setter",
    "layer_head_vector_patch_setter",
    "layer_pos_head_vector_patch_setter",
    "layer_pos_patch_setter",
    "make_df_from_ranges",
]


def _sweep(setter: Callable[..., Tensor], activation: str, axes: tuple[str, ...], what: str) -> partial:
    made = partial(generic_activation_patch, patch_setter=setter, activation_name=activation, index_axis_names=axes)
    made.__doc__ = f"""Patch {what}; [{", ".join(axes)}].

    Takes (model, corrupted_tokens, clean_cache, patching_metric), and reduce=, baseline= and return_index_df= as
    `generic_activation_patch` does; for chosen cells alone, index_axis_names=None and index_df=.
    """
    return made


_LAYER_POS, _LAYER_HEAD, _BY_POS = ("layer", "pos"), ("layer", "head"), ("layer", "pos", "head")
_resid = partial(_sweep, layer_pos_patch_setter, axes=_LAYER_POS)
_all_pos = partial(_sweep, layer_head_vector_patch_setter, axes=_LAYER_HEAD)
_by_pos = partial(_sweep, layer_pos_head_vector_patch_setter, axes=_BY_POS)

get_act_patch_resid_pre = _resid("resid_pre", what="the residual stream before each block, by position")
get_act_patch_resid_mid = _resid("resid_mid", what="the residual stream between attention and MLP, by position")
get_act_patch_attn_out = _resid("attn_out", what="what each attention layer adds, by position")
get_act_patch_mlp_out = _resid("mlp_out", what="what each MLP adds, by position")

get_act_patch_attn_head_out_by_pos = _by_pos("z", what="each head's output, by position")
get_act_patch_attn_head_q_by_pos = _by_pos("q", what="each head's queries, by position")
get_act_patch_attn_head_k_by_pos = _by_pos("k", what="each key/value head's keys, by position")
get_act_patch_attn_head_v_by_pos = _by_pos("v", what="each key/value head's values, by position")
get_act_patch_attn_head_pattern_by_pos = _sweep(
    layer_head_pos_pattern_patch_setter,
    "pattern",
    ("layer", "head_index", "dest_pos"),
    "each head's attention pattern, by destination position",
)
get_act_patch_attn_head_pattern_dest_src_pos = _sweep(
    layer_head_dest_src_pos_pattern_patch_setter,
    "pattern",
    ("layer", "head_index", "dest_pos", "src_pos"),
    "each entry of each head's attention pattern",
)

get_act_patch_attn_head_out_all_pos = _all_pos("z", what="each head's output at all positions")
get_act_patch_attn_head_q_all_pos = _all_pos("q", what="each head's queries at all positions")
get_act_patch_attn_head_k_all_pos = _all_pos("k", what="each key/value head's keys at all positions")
get_act_patch_attn_head_v_all_pos = _all_pos("v", what="each key/value head's values at all positions")
get_act_patch_attn_head_pattern_all_pos = _sweep(
    layer_head_pattern_patch_setter, "pattern", ("layer", "head_index"), "each head's whole attention pattern"
)


def _vectors(setter: Callable[..., Tensor], axes: tuple[str, ...]) -> dict[str, Type]:
    names = {"out": "z", "q": "q", "k": "k", "v": "v"}
    return {name: Type(setter, activation, axes, axes) for name, activation in names.items()}


_ALL_POS_TYPES = {
    **_vectors(layer_head_vector_patch_setter, _LAYER_HEAD),
    "pattern": Type(layer_head_pattern_patch_setter, "pattern", ("layer", "head_index"), _LAYER_HEAD),
}
_BY_POS_TYPES = {
    **_vectors(layer_pos_head_vector_patch_setter, _BY_POS),
    "pattern": Type(
        layer_head_pos_pattern_patch_setter,
        "pattern",
        ("layer", "head_index", "dest_pos"),
        ("layer", "head", "pos"),
    ),
}
_BLOCK_TYPES = {
    name: Type(layer_pos_patch_setter, name, _LAYER_POS, _LAYER_POS) for name in ("resid_pre", "attn_out", "mlp_out")
}


def get_act_patch_attn_head_all_pos_every(
    model: Any,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Cache,
    metric: Any,
    *,
    reduce: str = "scalar",
    baseline: bool = False,
) -> Tensor | PatchingResult:
    """Patch each head's out, q, k, v and pattern at all positions; [patch_type, layer, head], in this order.

    With grouped queries, k and v are 0 where there is no key/value head of that number.
    """
    return side_by_side(model, corrupted_tokens, clean_cache, metric, _ALL_POS_TYPES, _LAYER_HEAD, reduce, baseline)


def get_act_patch_attn_head_by_pos_every(
    model: Any,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Cache,
    metric: Any,
    *,
    reduce: str = "scalar",
    baseline: bool = False,
) -> Tensor | PatchingResult:
    """Patch each head's out, q, k, v and pattern by position; [patch_type, layer, pos, head], in this order.

    With grouped queries, k and v are 0 where there is no key/value head of that number.
    """
    return side_by_side(model, corrupted_tokens, clean_cache, metric, _BY_POS_TYPES, _BY_POS, reduce, baseline)


def get_act_patch_block_every(
    model: Any,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Cache,
    metric: Any,
    *,
    reduce: str = "scalar",
    baseline: bool = False,
) -> Tensor | PatchingResult:
    """Patch resid_pre, attn_out and mlp_out by position; [patch_type, layer, pos], in this order."""
    return side_by_side(model, corrupted_tokens, clean_cache, metric, _BLOCK_TYPES, _LAYER_POS, reduce, baseline)
