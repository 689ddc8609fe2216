"""The vocabulary of places inside a transformer: TransformerLens's site names, axes and head labels.

This is the only file that spells hook names. A site has a short name (`"z"`), and a full name per layer
(`"blocks.9.attn.hook_z"`). Towers other than the main one put their own name in front:
`"vision.blocks.3.attn.hook_pattern"`, `"encoder.blocks.0.hook_resid_post"`, `"cross.blocks.1.attn.hook_z"`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from headlens.hooks.nearest import did_you_mean

# Axes of every site, in order. "head" counts query heads, "kv_head" key/value heads (fewer with grouped queries).
SITE_AXES: dict[str, tuple[str, ...]] = {
    "rot_q": ("batch", "pos", "head", "d_head"),
    "rot_k": ("batch", "key", "kv_head", "d_head"),
    "v": ("batch", "key", "kv_head", "d_head"),
    "attn_scores": ("batch", "head", "query", "key"),
    "pattern": ("batch", "head", "query", "key"),
    "z": ("batch", "pos", "head", "d_head"),
    "result": ("batch", "pos", "head", "d_model"),
    "attn_out": ("batch", "pos", "d_model"),
    "mlp_out": ("batch", "pos", "d_model"),
    "resid_pre": ("batch", "pos", "d_model"),
    "resid_mid": ("batch", "pos", "d_model"),
    "resid_post": ("batch", "pos", "d_model"),
}
ATTENTION_SITES = ("rot_q", "rot_k", "v", "attn_scores", "pattern", "z")
MAIN = "main"

_INSIDE_ATTENTION = (*ATTENTION_SITES, "result")
_NAME = re.compile(r"^(?:(?P<tower>\w+)\.)?blocks\.(?P<layer>\d+)\.(?:attn\.)?hook_(?P<site>\w+)$")
_HEAD = re.compile(r"^L(\d+)H(\d+)$|^(\d+)\.(\d+)$")


class Head(NamedTuple):
    """One attention head; prints as `L23H3`."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


@dataclass(frozen=True)
class Site:
    """One place of one layer: which tower, which short site name, which layer."""

    name: str
    layer: int
    tower: str = MAIN

    def __post_init__(self) -> None:
        check_site(self.name)

    @property
    def axes(self) -> tuple[str, ...]:
        return SITE_AXES[self.name]

    def __str__(self) -> str:
        prefix = "" if self.tower == MAIN else f"{self.tower}."
        inside = "attn." if self.name in _INSIDE_ATTENTION else ""
        return f"{prefix}blocks.{self.layer}.{inside}hook_{self.name}"


def check_site(name: str) -> str:
    """Return a known short site name, or raise ValueError naming the nearest ones."""
    if name in SITE_AXES:
        return name
    hint = did_you_mean(name, SITE_AXES)
    raise ValueError(f"Unknown site {name!r}{hint}; the sites are {', '.join(SITE_AXES)}.")


def parse_site(full_name: str) -> Site:
    """Read `"blocks.9.attn.hook_z"` (or the same behind a tower's name) as a Site."""
    match = _NAME.match(full_name)
    if match is None:
        raise ValueError(
            f"{full_name!r} is not a hook name; "
            "expected one such as 'blocks.9.attn.hook_pattern' or 'blocks.0.hook_resid_pre'."
        )
    site = Site(match["site"], int(match["layer"]), match["tower"] or MAIN)
    if str(site) != full_name:
        raise ValueError(f"{full_name!r} is not a hook name; the nearest one is {str(site)!r}.")
    return site


def parse_head(label: "str | tuple[int, int] | Head") -> Head:
    """Read `"L23H3"`, `"23.3"` or `(23, 3)` as a Head."""
    if isinstance(label, str):
        match = _HEAD.match(label)
        if match is None:
            raise ValueError(f"{label!r} is not a head; write heads as 'L23H3' (layer 23, head 3, both from 0).")
        layer, head = (int(group) for group in match.groups() if group is not None)
        return Head(layer, head)
    if isinstance(label, tuple) and len(label) == 2 and all(isinstance(part, int) for part in label):
        return Head(*label)
    raise ValueError(f"{label!r} is not a head; write heads as 'L23H3' or (23, 3).")


def parse_heads(labels: "str | Head | tuple[int, int] | Iterable", n_layers: int, n_heads: int) -> tuple[Head, ...]:
    """Read one head, several, or `"all"`, and check them against the model's size."""
    if isinstance(labels, str) and labels == "all":
        return tuple(Head(layer, head) for layer in range(n_layers) for head in range(n_heads))
    single = isinstance(labels, str | Head) or (
        isinstance(labels, tuple) and len(labels) == 2 and all(isinstance(part, int) for part in labels)
    )
    several: Any = [labels] if single else labels
    heads = tuple(parse_head(label) for label in several)
    for head in heads:
        if not (0 <= head.layer < n_layers and 0 <= head.head < n_heads):
            raise ValueError(
                f"Head {head} does not exist: the model has layers L0..L{n_layers - 1} with heads H0..H{n_heads - 1}."
            )
    return heads
