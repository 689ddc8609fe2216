"""What a model with only some edges left stands on: clean prompts, and what each sender writes where it is ablated.

An edge that is left carries what its sender computes; one that is cut carries the ablated value instead
(2304.14997, 2403.17806).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.hooks.base_run import Base
from headlens.hooks.block_parts import BlockParts, block_parts, entered
from headlens.hooks.edges.node_values import NodeValues, record_values
from headlens.hooks.model import Model


@dataclass(frozen=True, eq=False)
class Ground:
    """One group of same-length prompts, ready to be run with any set of edges (`run_edges`), from `base.start` on.

    `base` lends masks and the keys and values before its start. `before[layer]` and `between[layer]` are the residual
    streams that ablated values sum to: before each block and behind the last, and between attention and MLP.
    `is_run` says that the ablated values are those of one run, so that a node that reads nothing else writes nothing
    else.
    """

    base: Base
    parts: tuple[BlockParts, ...]
    embedding: Float[Tensor, "prompt suffix d_model"]  # of the clean prompts
    ablated: NodeValues
    before: tuple[Float[Tensor, "prompt suffix d_model"], ...]
    between: tuple[Float[Tensor, "prompt suffix d_model"], ...]
    is_run: bool


@torch.no_grad()
def ground_of_run(
    model: Model, clean: Int[Tensor, "prompt pos"], other: Int[Tensor, "prompt pos"], start: int
) -> Ground:
    """Cut edges carry what their senders write on the `other` prompts (the corrupted ones, or those of other pairs).

    Both agree before `start`. ValueError for a model whose residual stream is not a sum of what its senders write.
    """
    base, ablated = record_values(model, other, start)
    return _ground(model, base, clean, ablated, is_run=True)


@torch.no_grad()
def ground_of_values(model: Model, clean: Int[Tensor, "prompt pos"], values: NodeValues) -> Ground:
    """Cut edges carry fixed values such as means [1 pos ...], of the prompts' positions and more, or of one for all.

    Nodes that read nothing but ablated values still compute something of their own from these, which edges that are
    left carry on (as in the released code of 2304.14997 and 2403.17806): a circuit keeps edges, not values.
    ValueError as in `ground_of_run`.
    """
    base, _ = record_values(model, clean, 0)
    prompts, length = clean.shape
    if values.embedding.shape[0] != 1 or 1 < values.embedding.shape[1] < length:
        raise ValueError(
            f"Values of shape {(*values.embedding.shape[:2],)} were given for prompts of {length} tokens; expected "
            "means over prompts [1, pos, ...] of at least as many positions, or of one for all."
        )
    widened = values.mapped(lambda tensor: tensor[:, :length].expand(prompts, length, *tensor.shape[2:]))
    return _ground(model, base, clean, widened, is_run=False)


def _ground(model: Model, base: Base, clean: Tensor, ablated: NodeValues, is_run: bool) -> Ground:
    before, between = ablated.streams(model)
    return Ground(base, block_parts(model, base), entered(model, base, clean), ablated, before, between, is_run)
