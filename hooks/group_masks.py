"""Which keys of a block of attention rows are in a group."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from headlens.hooks.clock import Clock
from headlens.hooks.groups import (
    Chosen,
    Either,
    First,
    Group,
    Massive,
    Positions,
    Recent,
    TokenIds,
)
from headlens.hooks.row_blocks import Block
from headlens.hooks.sink_rule import SinkRule

Memory = dict[Any, Any]


def keys_of(group: Group, block: Block, memory: Memory) -> Bool[Tensor, "#batch #head #row key"]:
    """Booleans of the block's keys. `memory` is the group's own, the same for all blocks and cached steps of a run."""
    keys, queries = block.keys, block.queries
    match group:
        case Positions(at):
            if at.ndim == 1:
                return torch.isin(keys, at.to(keys.device))[None, None, None]
            if len(at) != len(block.scores):
                raise ValueError(
                    f"A group has positions for {len(at)} prompts and {len(block.scores)} are run; give "
                    "[n] positions for all prompts, or [prompt, n]."
                )
            return (keys == at.to(keys.device)[..., None]).any(1)[:, None, None]
        case First(n):
            ahead = keys - block.first_key
            return ((ahead >= 0) & (ahead < n))[:, None, None]
        case Recent(n):
            ago = queries[:, None] - keys
            return ((ago >= 0) & (ago < n))[None, None]
        case TokenIds(ids):
            if "among" not in memory:
                memory["among"] = _table(ids, keys.device)
            among = memory["among"]
            return among[_tokens(block).clamp(max=len(among) - 1)][:, None, None]
        case Massive():
            # noted by `note_massive` before the layer's attention ran
            massive = block.clock.memory[group, block.layer]["massive"]
            return _of_keys(massive, block)[:, None, None]
        case Either(groups):
            found = [keys_of(each, block, memory.setdefault(at, {})) for at, each in enumerate(groups)]
            return torch.stack([*torch.broadcast_tensors(*found)]).any(0)
        case SinkRule():
            return group.evidence(block, memory).sink
        case Chosen(function):
            return _checked(function(block), block)
        case _:
            raise AssertionError(f"{group} was not resolved to token ids")


def partition(
    groups: Mapping[str, Group | str], block: Block, memory: Memory
) -> Integer[Tensor, "#batch #head #row key"]:
    """Which group each key is in, counted from 1 in order; 0 is in none. "rest" stands for all that are in no other.

    ValueError names the first key that is in two groups.
    """
    found: list[Tensor] = []
    for at, group in enumerate(groups.values()):
        found.append(
            torch.zeros_like(block.keys, dtype=torch.bool)[None, None, None]
            if isinstance(group, str)  # "rest"
            else keys_of(group, block, memory.setdefault(at, {}))
        )
    several = torch.broadcast_tensors(*found)
    index = torch.zeros_like(several[0], dtype=torch.uint8)
    for at, mask in enumerate(several, 1):
        _refuse_overlap([*groups], at, index, mask, block)
        index = torch.where(mask, at, index)
    rest = [at for at, group in enumerate(groups.values(), 1) if group == "rest"]
    return torch.where(index == 0, rest[0], index) if rest else index


def note_massive(group: Massive, layer: int, resid: Float[Tensor, "batch pos d_model"], clock: Clock) -> None:
    """Note which tokens have a massive activation, from the residual stream before a layer."""
    beyond = [dim for dim in group.dims if dim >= resid.shape[-1]]
    if beyond:
        raise ValueError(f"Massive names dimension {beyond[0]}; the residual stream has 0..{resid.shape[-1] - 1}.")
    stream = resid.detach().float()
    size = stream.abs() * stream.pow(2).mean(-1, keepdim=True).rsqrt()
    found = (size[..., list(group.dims)] > group.above).any(-1)
    memory = clock.memory.setdefault((group, layer), {})
    # nested blocks note the same tokens twice; a cache that was filled elsewhere is refused by `follow`
    before = memory.get("massive", found)[:, : clock.past]
    memory["massive"] = torch.cat([before, found], 1) if len(before) == len(found) else found


def _tokens(block: Block) -> Tensor:
    tokens = block.clock.tokens
    if tokens is None:
        raise ValueError(
            "A group by token needs the token ids of the whole run, and it was given embeddings, or a cache that was "
            "filled before the edit; start inside the edit, from token ids."
        )
    return _of_keys(tokens, block)


def _table(ids: Sequence[int], device: torch.device) -> Bool[Tensor, " token"]:
    """Whether a token is one of these, up to the largest and for all behind it."""
    table = torch.zeros(max(ids, default=-1) + 2, dtype=torch.bool, device=device)
    table[[*ids]] = True
    return table


def _of_keys(known: Tensor, block: Block) -> Tensor:
    """The entries [batch, key] of the block's keys; a static cache has some behind the newest token, seen by nobody."""
    return known[:, block.keys.clamp(max=known.shape[1] - 1)]


def _checked(mask: Any, block: Block) -> Tensor:
    shape = tuple(block.scores.shape)
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[-1] == shape[-1]:
        if all(size in (1, whole) for size, whole in zip(mask.shape, shape, strict=True)):
            return mask
    found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise ValueError(
        f"A group's function returned {found}; expected booleans [batch, head, row, key] = {shape}, where "
        "all but key may be 1."
    )


def _refuse_overlap(names: Sequence[str], at: int, index: Tensor, mask: Tensor, block: Block) -> None:
    twice = mask & (index > 0) & block.visible
    if twice.any():
        prompt, head, row, key = (int(place) for place in twice.nonzero()[0])
        other = int(index.expand_as(twice)[prompt, head, row, key])
        raise ValueError(
            f"The groups {names[other - 1]!r} and {names[at - 1]!r} both have key {int(block.keys[key])} (prompt "
            f"{prompt}, L{block.layer}H{block.heads[head]}); each key belongs to one group at most."
        )
