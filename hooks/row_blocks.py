"""One layer's attention in blocks of query rows, so that no [query, key] matrix of a whole layer is ever stored.

Autograd, where it is on, keeps the blocks of edited heads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention
from headlens.kernels.reference import attention_pattern, weighted_values

# Scores of one block: small enough to stay near the processor through softmax and sums.
BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class Block:
    """Some query rows of some heads of one layer, with every key that one of the rows sees."""

    layer: int
    heads: tuple[int, ...]
    scores: Float[
        Tensor, "batch head row key"
    ]  # computed in the model's dtype, held in float32 at least; -inf at hidden keys
    sinks: Float[Tensor, " head"] | None
    value: Float[Tensor, "batch kv_head key d"]
    first_row: int  # of the call's queries
    queries: Int[Tensor, " row"]  # absolute positions
    keys: Int[Tensor, " key"]
    clock: Clock
    # all blocks of the same call and heads, from the first
    again: "Callable[[], Iterator[Block]]"

    @cached_property
    def pattern(self) -> Float[Tensor, "batch head row key"]:
        """Attention as the model has it, in float32 at least."""
        return attention_pattern(self.scores, self.sinks)

    @cached_property
    def visible(self) -> Bool[Tensor, "batch head row key"]:
        """Which keys each row may attend to."""
        return self.scores != -torch.inf

    @cached_property
    def real(self) -> Bool[Tensor, "#batch row"]:
        """Which rows are no padding."""
        real = self.clock.real
        if real is None:
            return torch.ones(1, len(self.queries), dtype=torch.bool, device=self.queries.device)
        return real.to(self.queries.device)[:, self.queries]

    @cached_property
    def first_key(self) -> Int[Tensor, "#batch 1"]:
        """The position of each prompt's first token behind its padding."""
        real = self.clock.real
        if real is None:
            return torch.zeros(1, 1, dtype=torch.int64, device=self.queries.device)
        return real.to(self.queries.device).int().argmax(1, keepdim=True)

    def places(self, heads: Sequence[int]) -> list[int]:
        """Where these heads are in the block."""
        return [self.heads.index(head) for head in heads]

    def of_heads(self, heads: Sequence[int]) -> "Block":
        """The same rows of these heads alone."""
        if tuple(heads) == self.heads:
            return self
        at = self.places(heads)
        return replace(
            self,
            heads=tuple(heads),
            scores=self.scores[:, at],
            sinks=None if self.sinks is None else self.sinks[at],
            value=self.value[:, [place // (len(self.heads) // self.value.shape[1]) for place in at]],
            again=lambda: (block.of_heads(heads) for block in self.again()),
        )

    def z(self, pattern: Float[Tensor, "batch head row key"]) -> Float[Tensor, "batch row head d"]:
        """What the heads say with this attention in place of theirs."""
        return weighted_values(pattern.to(self.value.dtype), self.value)


def row_blocks(
    call: Attention,
    layer: int,
    heads: Sequence[int],
    clock: Clock,
    key_start: int = 0,
    most: int = BLOCK_BYTES,
    rows: tuple[int, int] | None = None,
) -> Iterator[Block]:
    """The call's rows (or those from rows[0] up to rows[1]) for these heads, as many at a time as `most` bytes hold."""
    part = of_heads(call, heads)
    again = partial(row_blocks, call, layer, heads, clock, key_start, most)
    (batch, n_heads, queries), keys = part.query.shape[:3], part.key.shape[2]
    start, end = rows or (0, queries)
    size = max(1, most // (4 * batch * n_heads * keys))
    for first in range(start, end, size):
        last = min(first + size, end)
        own = _of_rows(part, first, last)
        scores = own.scores()
        yield Block(
            layer=layer,
            heads=tuple(heads),
            scores=scores.to(torch.promote_types(scores.dtype, torch.float32)),
            sinks=own.sinks,
            value=own.value,
            first_row=first,
            queries=torch.arange(clock.past + first, clock.past + last, device=scores.device),
            keys=torch.arange(key_start, key_start + own.key.shape[2], device=scores.device),
            clock=clock,
            again=again,
        )


def whole_block(call: Attention, scores: Tensor, layer: int, clock: Clock, key_start: int) -> Block:
    """All rows of all heads as one block, with scores that somebody edited."""
    block = Block(
        layer=layer,
        heads=tuple(range(scores.shape[1])),
        scores=scores.to(torch.promote_types(scores.dtype, torch.float32)),
        sinks=call.sinks,
        value=call.value,
        first_row=0,
        queries=torch.arange(clock.past, clock.past + scores.shape[2], device=scores.device),
        keys=torch.arange(key_start, key_start + scores.shape[3], device=scores.device),
        clock=clock,
        again=lambda: iter([block]),
    )
    return block


def of_heads(call: Attention, heads: Sequence[int]) -> Attention:
    """The call of some heads alone."""
    n_heads = call.query.shape[1]
    if tuple(heads) == tuple(range(n_heads)):
        return call
    chosen = list(heads)
    served = [head // (n_heads // call.key.shape[1]) for head in chosen]
    return replace(
        call,
        query=call.query[:, chosen],
        key=call.key[:, served],
        value=call.value[:, served],
        mask=_picked(call.mask, chosen),
        bias=_picked(call.bias, chosen),
        sinks=None if call.sinks is None else call.sinks[chosen],
    )


def _picked(tensor: Tensor | None, heads: list[int]) -> Tensor | None:
    return tensor if tensor is None or tensor.shape[1] == 1 else tensor[:, heads]


def _of_rows(call: Attention, first: int, last: int) -> Attention:
    """The call of some rows alone, without the keys behind the last that one of them sees."""
    queries, keys = call.query.shape[2], call.key.shape[2]
    mask = call.mask
    if mask is None and call.causal and queries > 1:
        seen = last
        at = torch.arange(keys, device=call.query.device)
        mask = (at[None, :seen] <= at[first:last, None])[None, None]
    elif mask is None:
        seen = keys
    else:
        mask = mask[:, :, first:last] if mask.shape[2] > 1 else mask
        there = replace(call, mask=mask).allowed()
        assert there is not None  # there is a mask
        reached = there.flatten(0, 2).any(0).nonzero()
        seen = int(reached[-1]) + 1 if len(reached) else keys
        mask = mask[..., :seen]
    bias = call.bias
    if bias is not None:
        bias = (bias[:, :, first:last] if bias.shape[2] > 1 else bias)[..., :seen]
    return replace(
        call,
        query=call.query[:, :, first:last],
        key=call.key[:, :, :seen],
        value=call.value[:, :, :seen],
        mask=mask,
        bias=bias,
        causal=False,
    )
