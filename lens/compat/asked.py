"""The cells of a sweep in TransformerLens's terms, made into what the engine patches."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lens.patching import (
    layer_head_dest_src_pos_pattern_patch_setter,
    layer_head_pattern_patch_setter,
    layer_head_pos_pattern_patch_setter,
    layer_head_vector_patch_setter,
    layer_pos_head_vector_patch_setter,
    layer_pos_patch_setter,
)
from transformer_lens.utilities.components_utils import get_act_name

# What the indices of each of TransformerLens's setters stand for, behind the layer.
_VECTORS = {
    layer_pos_patch_setter: ("pos",),
    layer_pos_head_vector_patch_setter: ("pos", "head"),
    layer_head_vector_patch_setter: ("head",),
}
_PATTERNS = {
    layer_head_pattern_patch_setter: ("head",),
    layer_head_pos_pattern_patch_setter: ("head", "pos"),
    layer_head_dest_src_pos_pattern_patch_setter: ("head", "pos", "key"),
}
WHOLE = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
PATTERN_SITES = ("pattern", "attn_scores")
# Activations inside the attention: patching one changes what its heads say, and nothing else in their layer.
INSIDE = ("q", "k", "v", *PATTERN_SITES)
_SITES = {get_act_name(site, "*"): site for site in (*WHOLE, "z", *INSIDE)}


@dataclass(frozen=True)
class Asked:
    """One cell: these heads of a layer (none: all of it), patched at positions `start` to `stop` - 1.

    For an activation inside the attention that is where what the heads say changes, and `alone` is the one position
    (or key of a pattern) whose activation is exchanged; None: all of them.
    """

    layer: int
    heads: tuple[int, ...]
    start: int
    stop: int
    alone: int | None = None


@dataclass(frozen=True)
class Sizes:
    """How many layers, heads, heads at this site, and positions there are."""

    layers: int
    heads: int
    site_heads: int
    length: int


def site_of(setter: Callable, activation_name: str) -> str | None:
    """The short name of the site, if it goes with the setter and the engine knows both."""
    site = _SITES.get(get_act_name(activation_name, "*"))
    if site in PATTERN_SITES:
        return site if setter in _PATTERNS else None
    fits = setter in _VECTORS and (site not in WHOLE or setter is layer_pos_patch_setter)
    return site if fits else None


def cells_asked(setter: Callable, site: str, rows: Sequence[Sequence[Any]], sizes: Sizes) -> list[Asked] | None:
    """What each row of indices asks for; None if one of them is not a plain number within the model's sizes."""
    axes = ("layer", *{**_VECTORS, **_PATTERNS}[setter])
    most = {"pos": sizes.length, "key": sizes.length, "head": sizes.site_heads}
    found = []
    for row in rows:
        if len(row) != len(axes):
            return None
        at: dict[str, int] = {}
        for axis, value in zip(axes, row, strict=True):
            try:
                number = operator.index(value)
            except TypeError:
                return None
            at[axis] = number + most[axis] if number < 0 and axis != "layer" else number
            if not 0 <= at[axis] < most.get(axis, sizes.layers):
                return None
        found.append(_asked(site, at, sizes))
    return found


def _asked(site: str, at: dict[str, int], sizes: Sizes) -> Asked:
    pos, key = at.get("pos"), at.get("key")
    start, stop = (0, sizes.length) if pos is None else (pos, pos + 1)
    if site in WHOLE:
        return Asked(at["layer"], (), start, stop)
    group = sizes.heads // sizes.site_heads
    heads = range(at["head"] * group, (at["head"] + 1) * group) if "head" in at else range(sizes.heads)
    if site in ("k", "v") and pos is not None:
        # every later position reads this one's key and value
        return Asked(at["layer"], tuple(heads), pos, sizes.length, alone=pos)
    return Asked(at["layer"], tuple(heads), start, stop, alone=key)
