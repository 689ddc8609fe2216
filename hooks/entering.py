"""A block at which patched cells enter the replayed batch, or in which the batch ends."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from headlens.hooks.base_run import BaseLayer
from headlens.hooks.discover import Layer
from headlens.hooks.leaving import Leaving, Left
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


@dataclass(frozen=True, eq=False)
class Entering:
    """The block's forward where cells enter, or where only the `wanted` positions of its output are read.

    The first `running` rows have come from below. A cell that enters before the block runs through it like them. One
    that enters behind the attention needs none: its block's input is the kept one. What follows the attention is
    computed at the `wanted` positions only. `beyond` are cells that enter behind this last block. Rows that enter later
    stay untouched.
    """

    layer: Layer
    kept: BaseLayer
    running: int
    entry: Entry | None
    skip: int
    wanted: slice
    beyond: Entry | None
    original: Callable[..., Any]  # the block's own forward

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        entry, before, behind, behind_in = self.entry, [], [], []
        if entry is not None and entry.place == "block":
            before = [entry.value.flatten(0, 1)]
        elif entry is not None:
            # where the addition is replaced, what the attention returns does not matter
            behind = [entry.value.flatten(0, 1)]
            behind_in = [self.kept.resid_pre[:, self.skip :].repeat(len(entry), 1, 1)]
        rows = torch.cat([hidden[: self.running], *before])
        known = []
        if len(rows) or behind:
            attended = Leaving(self.layer.attention.forward)
            if len(rows):
                with shadowed({self.layer.attention: attended}), suppress(Left):
                    self.original(rows, *args, **kwargs)
            attention_out = torch.cat([*attended.found, *behind])[:, self.wanted]
            with shadowed(self._behind_the_attention(attention_out)):
                output = self.original(torch.cat([rows, *behind_in])[:, self.wanted], *args, **kwargs)
            known = [first_tensor(output)]
        last = [] if self.beyond is None else [self.beyond.value.flatten(0, 1)[:, self.wanted]]
        done = torch.cat([*known, *last])
        # models check that a block returns every position, of which those in front are never read
        done = pad(done, (0, 0, hidden.shape[1] - done.shape[1], 0))
        return alone(self.kept.block_out, torch.cat([done, hidden[len(done) :]]))

    def _behind_the_attention(self, attention_out: Tensor) -> dict[nn.Module, Callable[..., Any]]:
        """Stand-ins with which the block computes only what follows its attention."""
        answer = alone(self.kept.attention_out, attention_out)
        shadows: dict[nn.Module, Callable[..., Any]] = {self.layer.attention: lambda *_, **__: answer}
        addition = self.layer.attention_addition
        if self.entry is not None and self.entry.place == "addition" and addition is not self.layer.output_projection:
            shadows[addition] = _Ending(addition.forward, self.entry.value[:, :, self.wanted].flatten(0, 1))
        return shadows


@dataclass(frozen=True, eq=False)
class _Ending:
    """A module's own output with other last rows: those of the cells that enter here."""

    original: Callable[..., Any]
    rows: Float[Tensor, "row suffix d_model"]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        out = self.original(*args, **kwargs)
        return torch.cat([out[: -len(self.rows)], self.rows])
