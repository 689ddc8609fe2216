"""A block at which patched cells enter the replayed batch, or in which the batch ends."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from headlens.hooks.base_run import BaseLayer
from headlens.hooks.discover import Layer
from headlens.hooks.output import alone, first_tensor
from headlens.hooks.shadow import shadowed

# Where a patch acts: on the residual stream before a block (or behind the last one), on what a block's attention module
# returns, or on what the attention adds to the residual stream (behind a post-norm, where there is one).
Place = Literal["block", "attention", "addition"]


@dataclass(frozen=True, eq=False)
class Entry:
    """Cells that enter at one layer: what stands at that place in each, from the first patched position on."""

    place: Place
    value: Float[Tensor, "_cell prompt suffix d_model"]

    def __len__(self) -> int:
        return len(self.value)


def passing_on(kept: BaseLayer) -> Callable[..., Any]:
    """A block below all patches: nothing to compute."""
    return lambda hidden, *args, **kwargs: alone(kept.block_out, hidden)


def entering(
    layer: Layer, kept: BaseLayer, running: int, entry: Entry | None, skip: int, wanted: slice, beyond: Entry | None
) -> Callable[..., Any]:
    """The block's forward where cells enter, or where only the `wanted` positions of its output are read.

    The first `running` rows have come from below. A cell that enters before the block runs through it like them. One
    that enters behind the attention needs none: its block's input is the kept one. What follows the attention is
    computed at the `wanted` positions only. `beyond` are cells that enter behind this last block. Rows that enter later
    stay untouched.
    """
    place = None if entry is None else entry.place
    if place == "addition" and layer.attention_addition is layer.output_projection:
        place = "attention"
    original, attention = layer.block.forward, layer.attention.forward
    before, behind, behind_in = [], [], []
    if entry is not None and place == "block":
        before = [entry.value.flatten(0, 1)]
    elif entry is not None:
        # where the addition is replaced, what the attention returns does not matter
        behind, behind_in = [entry.value.flatten(0, 1)], [kept.resid_pre[:, skip:].repeat(len(entry), 1, 1)]
    last = [] if beyond is None else [beyond.value.flatten(0, 1)]

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows, attended = torch.cat([hidden[:running], *before]), []

        def attend_and_stop(*args: Any, **kwargs: Any) -> Any:
            attended.append(first_tensor(attention(*args, **kwargs)))
            raise _Attended

        if len(rows):
            with shadowed({layer.attention: attend_and_stop}), suppress(_Attended):
                original(rows, *args, **kwargs)
        known = []
        if len(rows) or behind:
            attention_out = alone(kept.attention_out, torch.cat([*attended, *behind])[:, wanted])
            shadows: dict[Any, Callable[..., Any]] = {layer.attention: lambda *_, **__: attention_out}
            if entry is not None and place == "addition":
                shadows[layer.attention_addition] = _instead(
                    layer.attention_addition.forward, entry.value[:, :, wanted]
                )
            with shadowed(shadows):
                output = original(torch.cat([rows, *behind_in])[:, wanted], *args, **kwargs)
            known = [first_tensor(output)]
        done = torch.cat([*known, *(rows[:, wanted] for rows in last)])
        # models check that a block returns every position, of which those in front are never read
        done = pad(done, (0, 0, hidden.shape[1] - done.shape[1], 0))
        return alone(kept.block_out, torch.cat([done, hidden[len(done) :]]))

    return forward


class _Attended(Exception):
    """Leaves a block once its attention is done."""


def _instead(original: Callable[..., Any], value: Float[Tensor, "cell prompt suffix d_model"]) -> Callable[..., Any]:
    """The module's own output, with `value` as its last rows: those of the cells that enter here."""
    flat = value.flatten(0, 1)

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        out = original(*args, **kwargs)
        return torch.cat([out[: -len(flat)], flat])

    return forward
