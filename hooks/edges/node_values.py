"""What every sender of a model writes in a run, kept where it is small: embedding, each head's z, each MLP's output.

A head writes its z times its own rows of the output projection (2304.14997, 2310.10348). The residual stream is the sum
of what all senders write and of the output projections' biases, which belong to none.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.base_run import Base, record_base
from headlens.hooks.model import Model
from headlens.hooks.output import first_tensor
from headlens.hooks.readout import rounding


@dataclass(frozen=True, eq=False)
class NodeValues:
    """What senders write, from some position on. Means have a prompt axis of 1, and those over positions too.

    `mlp` is None in layers without one.
    """

    embedding: Float[Tensor, "prompt suffix d_model"]
    z: tuple[Float[Tensor, "prompt suffix head d_head"], ...]
    mlp: tuple[Float[Tensor, "prompt suffix d_model"] | None, ...]

    def streams(self, model: Model) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The residual stream before each block and behind the last, and that between attention and MLP, as sums."""
        before, between = [self.embedding], []
        for layer, z, mlp in zip(model.layers, self.z, self.mlp, strict=True):
            stream = before[-1]
            between.append(stream + layer.output_projection(z.flatten(2).contiguous()).to(stream))
            before.append(between[-1] if mlp is None else between[-1] + mlp)
        return tuple(before), tuple(between)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "NodeValues":
        """The function of every tensor; each has the axes prompt and position first."""
        mlp = tuple(None if each is None else function(each) for each in self.mlp)
        return NodeValues(function(self.embedding), tuple(function(z) for z in self.z), mlp)

    def plus(self, other: "NodeValues") -> "NodeValues":
        pairs = zip(self.mlp, other.mlp, strict=True)
        mlp = tuple(None if mine is None or theirs is None else mine + theirs for mine, theirs in pairs)
        z = tuple(mine + theirs for mine, theirs in zip(self.z, other.z, strict=True))
        return NodeValues(self.embedding + other.embedding, z, mlp)


def record_values(model: Model, tokens: Int[Tensor, "prompt pos"], start: int) -> tuple[Base, NodeValues]:
    """Run `tokens` once, keeping the base run and what every sender writes from `start` on.

    ValueError for a model whose heads do not write by themselves (they share a post-norm, as in Gemma 2), or whose
    residual stream is not the sum of its senders.
    """
    refuse_post_norms(model)
    mlps: dict[int, Tensor] = {}

    def keep(at: int, module: nn.Module, args: Any, output: Any) -> None:
        mlps[at] = first_tensor(output).view(*tokens.shape, -1)[:, start:]

    with ExitStack() as stack:
        for at, layer in enumerate(model.layers):
            if layer.mlp is not None:
                stack.callback(layer.mlp.register_forward_hook(partial(keep, at)).remove)
        base = record_base(model, tokens, start)
    with torch.no_grad():
        z = tuple(kept.call.z() for kept in base.layers)
        values = NodeValues(base.layers[0].resid_pre, z, tuple(mlps.get(at) for at in range(model.n_layers)))
        _refuse_other_sums(model, base, values)
    return base, values


def refuse_post_norms(model: Model) -> None:
    """ValueError for a model that norms the sum of its heads before adding it to the residual stream."""
    for layer in model.layers:
        if layer.attention_addition is not layer.output_projection:
            raise ValueError(
                f"{type(layer.block).__name__} norms the sum of its heads ({type(layer.attention_addition).__name__}) "
                "before it is added to the residual stream, so what one head writes depends on the others, and no edge "
                "from a head can be run by itself."
            )


def _refuse_other_sums(model: Model, base: Base, values: NodeValues) -> None:
    """ValueError unless the blocks' outputs are what their senders sum to."""
    before, _ = values.streams(model)
    for layer, kept, stream in zip(model.layers, base.layers, before[1:], strict=True):
        out = first_tensor(kept.block_out)
        if float((stream.to(out) - out).abs().max()) > rounding(model.dtype) * float(out.abs().max()):
            raise ValueError(
                f"{type(layer.block).__name__} does more with its heads and its MLP than add what they write to the "
                "residual stream, so the model has no edges that could be run by themselves."
            )
