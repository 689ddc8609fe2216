"""What stands in the residual stream, or is added to it, where the cells of a sweep are patched at some rows.

A patch inside the attention is worked out at its layer's heads (`edited_z`), and what they say differently, times their
part of the output projection, is added to the attention's output.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headlens.hooks.base_run import Base, from_row, joined
from headlens.hooks.cells import Cell
from headlens.hooks.edited_attention import edited_z
from headlens.hooks.entering import Entry, Place
from headlens.hooks.intercept import Attention, Listener
from headlens.hooks.model import Model
from headlens.hooks.output import first_tensor
from headlens.hooks.replay import Wrapping
from headlens.hooks.sites import SITE_AXES
from headlens.kernels.operations import patched_outputs

# Where a patch of a site outside the attention acts, and how many layers further on.
_PLACES: dict[str, tuple[Place, int]] = {
    "attn_out": ("addition", 0),
    "resid_mid": ("addition", 0),
    "resid_pre": ("block", 0),
    "mlp_out": ("block", 1),
    "resid_post": ("block", 1),
}


@dataclass(frozen=True, eq=False)
class Changes:
    """The base run's and the source's activations of each layer at a site, and which rows of them are exchanged."""

    model: Model
    base: Base
    site: str
    from_base: Sequence[Tensor]  # from the base run's start on
    source: Sequence[Tensor]
    where: Bool[Tensor, "prompt suffix"]  # from the first patched position on, `skip` behind the base run's start
    skip: int
    key: int | None
    # what the heads of a layer say there, unpatched and patched
    _said: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def moves(self, cell: Cell) -> bool:
        """Whether the source says something else than the base run; where it does not, nothing moves."""
        for layer, heads in cell.parts:
            base, source = (self._read_by(activations[layer], heads) for activations in (self.from_base, self.source))
            if not torch.equal(base[self.where], source[self.where]):
                return True
        return False

    def entries(self, cells: Sequence[Cell]) -> dict[int, Entry]:
        """What each cell is at its first layer."""
        place, further = _PLACES.get(self.site, ("attention", 0))
        groups: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for cell in cells:
            layer, heads = cell.parts[0]
            groups[layer].append(heads)
        values = self._of_heads if place == "attention" else self._of_layer
        return {layer + further: Entry(place, values(layer, group)) for layer, group in groups.items()}

    def later(self, cells: Sequence[Cell]) -> dict[int, Wrapping]:
        """How the layers behind a cell's first one patch the cells that come through them."""
        again: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for index, cell in enumerate(cells):
            for layer, heads in cell.parts[1:]:
                again[layer].append((index, self._query_heads(heads)))
        return {layer: self._patching(layer, parts) for layer, parts in again.items()}

    def _of_layer(self, layer: int, cells: list[tuple[int, ...]]) -> Float[Tensor, "cell prompt suffix d_model"]:
        kept, rows = self.base.layers[layer], slice(self.skip, None)
        source, base = self.source[layer][:, rows], self.from_base[layer][:, rows]
        value = torch.where(self.where[..., None], source, base)
        if self.site == "mlp_out":
            value = first_tensor(kept.block_out)[:, rows] + (value - base)
        if self.site == "resid_mid":
            value = value - kept.resid_pre[:, rows]
        return value.expand(len(cells), -1, -1, -1)

    def _of_heads(self, layer: int, cells: list[tuple[int, ...]]) -> Float[Tensor, "cell prompt suffix d_model"]:
        """The layer's attention output with what patched heads say differently."""
        if layer not in self._said:
            self._said[layer] = self._saying(layer)
        (base, patched), module = self._said[layer], self.model.layers[layer]
        queries = [self._query_heads(heads) for heads in cells]
        attended = first_tensor(self.base.layers[layer].attention_out)[:, self.skip :]
        if all(len(heads) == self.model.n_heads for heads in queries):
            # not a sum of differences, whose rounding a norm behind a silenced attention would blow up
            whole = module.output_projection(patched.flatten(2).to(attended.dtype))
            return whole.expand(len(cells), -1, -1, -1)
        # behind the last patched row only patched keys and values make a difference
        suffix = self.where.shape[1]
        reach = suffix if "key" in SITE_AXES[self.site][:2] else int(self.where.any(0).nonzero()[-1, 0]) + 1
        weights, widest = module.output_weights(self.model.n_heads), max(map(len, queries))
        of_cells = torch.tensor([heads + [-1] * (widest - len(heads)) for heads in queries])
        return patched_outputs(attended, patched[:, :reach], base[:, :reach], weights, of_cells)

    def _saying(self, layer: int) -> tuple[Tensor, Tensor]:
        if self.site == "z":
            call, base = self.base.layers[layer].call, self.from_base[layer][:, self.skip :]
        else:
            call = from_row(self.base.layers[layer].call, self.skip)
            base = call.z()
        return base, edited_z(self.site, call, base, self.rows_of(self.source[layer]), self.where, self.key)

    def _patching(self, layer: int, parts: list[tuple[int, list[int]]]) -> Wrapping:
        return partial(_Patching, self, layer, parts)

    def rows_of(self, activation: Tensor) -> Tensor:
        """An activation from the first patched position on."""
        return activation[:, :, self.skip :] if SITE_AXES[self.site][1] == "head" else activation[:, self.skip :]

    def _read_by(self, activation: Tensor, heads: tuple[int, ...]) -> Tensor:
        """The part of an activation that a cell exchanges, with prompt and position in front."""
        rows = self.rows_of(activation)
        if not heads:
            return rows
        if SITE_AXES[self.site][1] != "head":
            return rows[:, :, list(heads)]
        rows = rows.transpose(1, 2)[:, :, list(heads)]
        return rows if self.key is None else rows[..., self.key]

    def _query_heads(self, heads: tuple[int, ...]) -> list[int]:
        """The query heads that a cell's heads speak through: at key/value sites those of their groups."""
        if "kv_head" not in SITE_AXES[self.site]:
            return list(heads)
        group = self.model.n_heads // self.model.n_kv_heads
        return [head * group + at for head in heads for at in range(group)]


@dataclass(frozen=True, eq=False)
class _Patching:
    """A layer's listener that also patches cells which entered further down: (cell, its query heads here)."""

    changes: Changes
    layer: int
    parts: list[tuple[int, list[int]]]
    listener: Listener

    def __call__(self, module: nn.Module, call: Attention) -> tuple[Tensor, Tensor | None]:
        z, _ = self.listener(module, call)
        changes, prompts = self.changes, len(self.changes.where)
        kept, source = changes.base.layers[self.layer].call, changes.rows_of(changes.source[self.layer])
        for index, heads in self.parts:
            own = slice(index * prompts, (index + 1) * prompts)
            alone = call.with_inputs(call.query[own], call.key[own], call.value[own])
            whole = joined(kept, alone, 1, changes.base.start + changes.skip, changes.skip)
            edited = edited_z(changes.site, whole, z[own], source, changes.where, changes.key)
            z[own, :, heads] = edited[:, :, heads]
        return z, None
