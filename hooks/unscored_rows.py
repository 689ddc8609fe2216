"""Rows of a layer of which positions and padding are known, and no scores: to ask whose rows and keys they are."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention
from headlens.hooks.row_blocks import Block


def unscored_rows(
    call: Attention, heads: Sequence[int], layer: int, clock: Clock, key_start: int, rows: tuple[int, int]
) -> Block:
    """The call's rows from rows[0] up to rows[1] as a block whose rows see every real key and score all alike."""
    keys = torch.arange(key_start, key_start + call.key.shape[2], device=call.query.device)
    shown = torch.zeros(1, len(keys), device=keys.device)
    if clock.real is not None:
        real = clock.real.to(keys.device)
        # a static cache has keys behind the newest token
        shown = shown.masked_fill(~real[:, keys.clamp(max=real.shape[1] - 1)], -torch.inf)
    return Block(
        layer=layer,
        heads=tuple(heads),
        # takes no memory for rows and heads
        scores=shown[:, None, None].expand(len(call.query), len(heads), rows[1] - rows[0], -1),
        sinks=None,
        value=call.value,
        first_row=rows[0],
        queries=torch.arange(clock.past + rows[0], clock.past + rows[1], device=keys.device),
        keys=keys,
        clock=clock,
        again=lambda: iter(()),
    )


def last_row(block: Block) -> Block:
    """The block's last row, for groups of keys that are the same for every row."""
    return replace(block, scores=block.scores[:, :, -1:], queries=block.queries[-1:])
