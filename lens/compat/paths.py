"""Paths from one head into what later heads read, on the replay engine.

All heads of a layer read the same residual stream, so one run in which each layer reads the base run's with the
source's difference added tells every later head's alternative query (or key, or value); patching one of these in is the
path into that head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.compat.replaying import Sweep, filling, first_differing
from headlens.compat.runner import Cache
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.edits import Call
from headlens.hooks.model import Model
from headlens.hooks.sites import Head, Site
from headlens.hooks.sweep import Fill
from headlens.hooks.trial import why_not_replayed

# Where a later head reads what it makes of a path.
SITES = {"q": "rot_q", "k": "rot_k", "v": "v"}
# How far the parts of a block may be from their sum by rounding, relative to its size; a scale is further off.
_UNCHANGED = 1e-2


@dataclass(frozen=True, eq=False)
class Paths:
    """Paths on one batch: its residual stream before each layer, its activations at the site, and what heads write."""

    model: Model
    tokens: Int[Tensor, "batch pos"]
    site: str
    resid_pre: list[Tensor]
    unpatched: list[Tensor]
    moved_z: Mapping[int, Float[Tensor, "batch pos head d_head"]]  # clean minus corrupted, of each source layer
    sweep: Sweep

    def into_later_heads(self, source: Head) -> Float[Tensor, "layer head"]:
        """The metric with the path from `source` into each later head patched; 0 elsewhere."""
        found = torch.zeros(self.model.n_layers, self.model.n_heads, device=self.model.device)
        cells = self._cells(source)
        if cells:
            measured = self.sweep.measured(self._fill(source), cells, self._rows())
            found[source.layer + 1 :] = measured.view(-1, self.model.n_heads)
        return found

    def why_not_exact(self, source: Head) -> str | None:
        """None if a first and a last path, replayed, equal whole forwards."""
        cells = self._cells(source)
        return (
            why_not_replayed(self.sweep.engine(self._fill(source)), [cells[0], cells[-1]], self._rows())
            if cells
            else None
        )

    def _cells(self, source: Head) -> list[Cell]:
        later = range(source.layer + 1, self.model.n_layers)
        return [Cell.of_heads([Head(layer, head)]) for layer in later for head in range(self.model.n_heads)]

    def _rows(self) -> Rows:
        return Rows.everywhere(*self.tokens.shape)

    def _fill(self, source: Head) -> Fill:
        """What all heads behind the source read with its difference added."""
        weights = self.model.layers[source.layer].output_weights(self.model.n_heads)[source.head]
        delta = self.moved_z[source.layer][:, :, source.head] @ weights
        later = range(source.layer + 1, self.model.n_layers)

        def standing(layer: int) -> Callable[..., Tensor]:
            return lambda resid, hook: self.resid_pre[layer] + delta

        edits = [Call(str(Site("resid_pre", layer)), standing(layer)) for layer in later]
        names = [str(Site(self.site, layer)) for layer in later]
        with torch.no_grad(), self.model.edited(*edits):
            _, kept = self.model.record(self.tokens, names_filter=names, budget=None)
        return filling(
            {layer: kept[name] for layer, name in zip(later, names, strict=True)}, dict(enumerate(self.unpatched))
        )


def find_paths(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    clean: Cache,
    corrupted: Cache,
    metric: Callable[[Tensor], Any],
    layers: Sequence[int],
    component: str,
) -> Paths:
    """Paths from heads of these layers. ValueError where they are not defined on this model."""
    tokens, site = tokens.to(model.device), SITES[component]
    _refuse(model, tokens, layers, component)
    runs = [{layer: run[str(Site("z", layer))].to(model.device) for layer in layers} for run in (clean, corrupted)]
    start = first_differing(*runs, axis=1)
    with torch.no_grad():
        logits, kept = model.record(tokens, names_filter=["resid_pre", site], budget=None)
    resid_pre, unpatched = ([kept[str(Site(name, at))] for at in range(model.n_layers)] for name in ("resid_pre", site))
    sweep = Sweep(
        model,
        tokens,
        tokens.shape[1] - 1 if start is None else start,
        site,
        logits,
        lambda patched: torch.as_tensor(metric(patched)).detach().float().reshape(1),
    )
    moved_z = {layer: runs[0][layer] - runs[1][layer] for layer in layers}
    return Paths(model, tokens, site, resid_pre, unpatched, moved_z, sweep)


def _refuse(model: Model, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], component: str) -> None:
    if component != "q" and model.n_kv_heads != model.n_heads:
        raise ValueError(
            f"{model.name!r} has {model.n_kv_heads} key/value heads for {model.n_heads} heads, so a path into "
            f"one head's {component} alone does not exist; give component='q'."
        )
    for layer in layers:
        if not _writes_unchanged(model, tokens, layer):
            raise ValueError(
                f"In layer {layer} of {model.name!r} what the heads write is normed or scaled before the residual "
                "stream, so one head's part of it is not z @ W_O and its direct paths are not defined."
            )


def _writes_unchanged(model: Model, tokens: Int[Tensor, "batch pos"], layer: int) -> bool:
    """Whether the residual stream receives the output projection's output as it is."""
    parts = model.layers[layer]
    if parts.middle is not None:
        return parts.middle is parts.output_projection
    if parts.mlp is None:
        return False
    names = [str(Site(name, layer)) for name in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    with torch.no_grad():
        _, kept = model.record(tokens[:1], names_filter=names)
    before, attention, mlp, behind = (kept[name] for name in names)
    error = (before + attention + mlp - behind).abs().max()
    return bool(error <= _UNCHANGED * behind.abs().max())
