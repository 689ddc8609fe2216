"""The sinks of whole prompts (`SinkRule("prefill_column")`) of one layer, without a [row, key] matrix of it.

One pass over the keys finds what each row's softmax divides by, a second what each key is given; means over rows then
decide, as they do block by block. Two things can make the decisions differ there and here:

- Sums in another order. Where a mean is so near its bound that this could decide, nothing is decided here, and blocks
  do it: in float32 the sinks are the same.
- Half precision. Blocks round each score to the model's dtype first; here scores are float32, so that a mean near its
  bound may be decided otherwise, by numbers that are closer to the exact ones.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from headlens.hooks.groups import Chosen, Either, Group, parts_of
from headlens.hooks.intercept import Attention
from headlens.hooks.row_blocks import Block
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.unscored_rows import last_row
from headlens.kernels.operations import received, row_stats
from headlens.kernels.seen import Seen
from headlens.kernels.seen_counts import rows_seeing

# Relative to the bound: over ten times what means of float32 were apart in a model of 135 million weights.
_NEAR = 1e-5


def with_sinks_found(
    groups: Mapping[str, Group | str], call: Attention, seen: Seen, block: Block
) -> Mapping[str, Group | str] | None:
    """Groups with the keys that their rules find in the call (of the block's heads, with all rows) in place of rules.

    None where blocks have to look: a mean is too near its bound, or heads see different keys.
    """
    named = [group for group in groups.values() if not isinstance(group, str)]
    rules = {part for group in named for part in parts_of(group) if isinstance(part, SinkRule)}
    if not rules:
        return groups
    if seen.mask is not None and seen.mask.shape[1] > 1:
        return None
    sums, rows = _columns(call, seen, block)
    found: dict[SinkRule, Chosen] = {}
    for rule in rules:
        evidence = rule.of_columns(last_row(block), sums, rows)
        if bool(((evidence.received - evidence.bound).abs() <= _NEAR * evidence.bound).any()):
            return None
        found[rule] = Chosen(lambda _, sink=evidence.sink: sink)
    return {name: group if isinstance(group, str) else _with(group, found) for name, group in groups.items()}


def _columns(call: Attention, seen: Seen, block: Block) -> tuple[Tensor, Tensor]:
    """What each key is given by all real rows, and how many of them see it, [batch, head, key] each."""
    clock, (rows, keys) = block.clock, (call.query.shape[2], call.key.shape[2])
    real = torch.ones(1, rows, dtype=torch.bool) if clock.real is None else clock.real[:, :rows]
    real = real.to(call.query.device)
    lse = row_stats(call.query, call.key, seen, call.scaling, softcap=call.softcap, sinks=call.sinks).lse
    sums = received(call.query, call.key, seen, call.scaling, lse, real, softcap=call.softcap)
    seeing = rows_seeing(seen, real, keys)
    return sums, seeing[:, None].expand(sums.shape).to(sums.dtype)


def _with(group: Group, found: Mapping[SinkRule, Chosen]) -> Group:
    if isinstance(group, Either):
        return Either(tuple(_with(part, found) for part in group.groups))
    return found[group] if isinstance(group, SinkRule) else group
