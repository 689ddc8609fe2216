"""Which keys the rows of an attention call see, said in a few numbers where its mask is of an ordinary kind."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention
from headlens.kernels.seen import Seen


def seen_by(call: Attention, clock: Clock, key_start: int) -> Seen:
    """A boolean mask that is causal, with padding in front and a window or without, need not be read key by key.

    Rows of padding may be said to see nothing. ValueError for a mask of numbers, which may do more than hide keys.
    """
    queries, mask, past = call.query.shape[2], call.mask, clock.past - key_start
    if mask is None:
        return Seen(causal=call.causal and queries > 1, past=past)
    if mask.dtype != torch.bool:
        raise ValueError(f"The mask has {mask.dtype} numbers; expected booleans.")
    if queries == 1 or clock.past:
        return Seen(causal=False, past=past, mask=mask)
    # layers share masks, which are kept so that no other takes their place in memory
    known: dict[Any, Any] = clock.memory.setdefault("seen", {})
    name = (mask.data_ptr(), mask.shape)
    if name not in known:
        known[name] = (mask, _recognised(mask, clock) or Seen(causal=False, mask=mask))
    return known[name][1]


def _recognised(mask: Bool[Tensor, "#batch #head row key"], clock: Clock) -> Seen | None:
    rows, keys = mask.shape[2:]
    real = torch.ones(1, rows, dtype=torch.bool) if clock.real is None else clock.real
    if real.shape[1] != rows:
        return None
    real = real.to(mask.device)
    most = int((mask.sum(-1) * real[:, None]).max())
    seen = Seen(
        window=most if most < rows else None,
        first=None if clock.real is None else real.int().argmax(1),
    )
    alike = (seen.allowed(rows, keys, mask.device) == mask) | ~real[:, None, :, None]
    return seen if bool(alike.all()) else None
