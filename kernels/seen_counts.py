"""How many keys rows see, and how many rows see a key, counted without a [row, key] tensor where there is no mask."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headlens.kernels.seen import Seen


def keys_seen(seen: Seen, rows: int, keys: int, device: torch.device) -> Int[Tensor, "#batch row"]:
    """How many keys each row sees, in some head where heads have masks of their own."""
    if seen.mask is not None:
        return seen.allowed(rows, keys, device).any(1).sum(-1)
    at = torch.arange(seen.past, seen.past + rows, device=device)[None]
    first, end = _ends(seen, keys, device)
    if seen.window is not None:
        first = torch.maximum(first, at - seen.window + 1)
    if seen.causal:
        end = torch.minimum(end, at + 1)
    return (end - first).clamp(min=0).expand(-1, rows)


def rows_seeing(seen: Seen, counted: Bool[Tensor, "#batch row"], keys: int) -> Int[Tensor, "#batch key"]:
    """How many of the counted rows see each key, in some head where heads have masks of their own."""
    rows, device = counted.shape[1], counted.device
    if seen.mask is not None:
        return (seen.allowed(rows, keys, device).any(1) & counted[..., None]).sum(1)
    key = torch.arange(keys, device=device)
    # counted rows in front of each row, so that a stretch of rows is one subtraction
    ahead = torch.nn.functional.pad(counted.long().cumsum(1), (1, 0))
    start, stop = torch.zeros_like(key), torch.full_like(key, rows)
    if seen.causal:
        start = (key - seen.past).clamp(0, rows)
    if seen.window is not None:
        stop = (key - seen.past + seen.window).clamp(0, rows)
    first, end = _ends(seen, keys, device)
    return (ahead[:, stop] - ahead[:, start]).clamp(min=0) * ((key >= first) & (key < end))


def _ends(seen: Seen, keys: int, device: torch.device) -> tuple[Int[Tensor, "#batch 1"], Int[Tensor, "#batch 1"]]:
    first = torch.zeros(1, device=device, dtype=torch.int64) if seen.first is None else seen.first.clamp(min=0)
    end = torch.full((1,), keys, device=device) if seen.end is None else seen.end.clamp(max=keys)
    return first[:, None], end[:, None]
