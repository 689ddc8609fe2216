"""Parts of a block on inputs of their own: its queries, keys and values alone, and its MLP alone.

The block itself is called, with the arguments that the model hands it, and left once the part is known. So an
architecture needs no code here.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.base_run import Base, BaseLayer
from headlens.hooks.discover import Layer
from headlens.hooks.intercept import Attention, placed
from headlens.hooks.leaving import Leaving, Left, telling
from headlens.hooks.model import Model
from headlens.hooks.output import alone
from headlens.hooks.shadow import shadowed
from headlens.hooks.suffix_run import run_suffix


@dataclass(frozen=True, eq=False)
class BlockParts:
    """One block, to be run in parts; `args` and `kwargs` are what the model hands it beside the hidden states.

    To be used without gradients, inside `listening`.
    """

    layer: Layer
    kept: BaseLayer
    args: tuple
    kwargs: Mapping[str, Any]

    def attention(self, hidden: Float[Tensor, "row suffix d_model"]) -> Attention:
        """The query, key and value that the attention makes of the block's input; its mask is of no use."""
        found: list[Attention] = []
        with placed({self.layer.attention: telling(found.append)}), suppress(Left):
            self.layer.block(hidden, *self.args, **self.kwargs)
        return found[0]

    def mlp(self, hidden: Float[Tensor, "row suffix d_model"]) -> Float[Tensor, "row suffix d_model"]:
        """What the MLP writes where its own input, before its norm, is `hidden`."""
        assert self.layer.mlp is not None  # asked only of layers that have one
        silent, leaving = alone(self.kept.attention_out, torch.zeros_like(hidden)), Leaving(self.layer.mlp.forward)
        shadows: dict[nn.Module, Callable[..., Any]] = {
            self.layer.attention: lambda *_, **__: silent,
            self.layer.mlp: leaving,
        }
        with shadowed(shadows), suppress(Left):
            self.layer.block(hidden, *self.args, **self.kwargs)
        # OPT flattens batch and position before its MLP
        return leaving.found[0].view_as(hidden)


def entered(model: Model, base: Base, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt suffix d_model"]:
    """What enters the first block from the base run's start on, for these tokens: the embedding."""
    return _hollow(model, base, tokens)[0].hidden


def block_parts(model: Model, base: Base) -> tuple[BlockParts, ...]:
    """Every block of a base run, to be run in parts from its start on."""
    # of a single prompt: what the model hands its blocks then fits any number of rows
    noted = _hollow(model, base, base.tokens[:1])
    layers = zip(model.layers, base.layers, noted, strict=True)
    return tuple(BlockParts(layer, kept, note.args, note.kwargs) for layer, kept, note in layers)


@dataclass(eq=False)
class _Noting:
    """A block's forward that computes nothing, and notes what it was called with."""

    kept: BaseLayer
    hidden: Any = None
    args: tuple = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.hidden, self.args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        self.kwargs = kwargs
        return alone(self.kept.block_out, self.hidden)


def _hollow(model: Model, base: Base, tokens: Int[Tensor, "prompt pos"]) -> list[_Noting]:
    """The model's own forward with nothing inside its blocks."""
    noted = [_Noting(kept) for kept in base.layers]
    shadows: dict[nn.Module, Callable[..., Any]] = {
        layer.block: note for layer, note in zip(model.layers, noted, strict=True)
    }
    unembedding: Any = model.hf.get_output_embeddings()
    # nobody reads the logits
    shadows[unembedding] = lambda hidden: hidden
    run_suffix(model, tokens[:, base.start :], base.start, {}, shadows)
    return noted
