"""What `head_stats` reads off a whole layer's rows in one pass of the kernels, where these can run and know it all."""

from collections.abc import Mapping

import torch
from torch import Tensor

from headlens.analyses.row_readings import OF_COPIES, Part, Statistic
from headlens.hooks.clock import Clock
from headlens.hooks.group_masks import keys_of
from headlens.hooks.groups import Chosen, Group, Recent, parts_of
from headlens.hooks.intercept import Attention
from headlens.hooks.row_blocks import Block
from headlens.hooks.seen_rows import seen_by
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.unscored_rows import last_row, unscored_rows
from headlens.kernels.dispatch import choice
from headlens.kernels.operations import divergence, received, row_stats
from headlens.kernels.row_stats import MOST_GROUPS, RowStats
from headlens.kernels.seen import Seen
from headlens.kernels.seen_counts import keys_seen, rows_seeing

# What a statistic of one number a head is called by the kernel: as asked, and in the answer.
_OF_ROWS = {
    "entropy": ("entropy", "entropy"),
    "first_token": ("first", "first"),
    "previous_token": ("previous", "previous"),
    "self": ("self", "own"),
    "distance": ("distance", "distance"),
    "duplicate": ("duplicate", "duplicate"),
    "induction": ("induction", "induction"),
}
_OF_ROWS_EACH = {"top_key", "top_mass"}


def parts_at_once(
    statistics: Mapping[str, Statistic],
    prompts: int,
    image_token: int | None,
    call: Attention,
    layer: int,
    clock: Clock,
    key_start: int,
) -> dict[str, Part] | None:
    """The layer's sums by statistic, or None where they are to be read block by block.

    The run's first `prompts` prompts are meant; the same in another run may follow them.
    """
    groups = {name: statistic.group for name, statistic in statistics.items() if statistic.group is not None}
    whole = not clock.past and not key_start and call.bias is None
    known = (call.mask is None or call.mask.dtype == torch.bool) and len(groups) <= MOST_GROUPS
    if not whole or not known or not choice(call.query, call.key).kernel or not all(map(_is_of_keys, groups.values())):
        return None
    rows, heads = call.query.shape[2], range(call.query.shape[1])
    block = unscored_rows(call, heads, layer, clock, key_start, (0, rows))
    seen = seen_by(call, clock, key_start)
    own, real = seen.of_prompts(slice(prompts)), block.real[:prompts]
    query, key = call.query[:prompts], call.key[:prompts]
    tokens = _tokens(block, prompts, image_token) if OF_COPIES & statistics.keys() else (None, None)
    what = {_OF_ROWS[name][0] for name in statistics if name in _OF_ROWS}
    found = row_stats(
        query,
        key,
        own,
        call.scaling,
        softcap=call.softcap,
        sinks=call.sinks,
        what=what | ({"top"} if _OF_ROWS_EACH & statistics.keys() else set()),
        row_tokens=tokens[0],
        key_tokens=tokens[1],
        groups=_bits(groups, block, prompts) if groups else None,
        n_groups=len(groups),
    )
    choosing = real & (keys_seen(own, rows, key.shape[2], real.device) > 1)
    parts: dict[str, Part] = {}
    for name in statistics:
        if name in groups:
            assert found.masses is not None  # the groups were asked for
            parts[name] = _summed(found.masses[..., [*groups].index(name)], choosing)
        elif name in OF_COPIES:
            parts[name] = _summed(getattr(found, name), real & getattr(found, f"has_{name}").any(1))
        elif name in _OF_ROWS:
            parts[name] = _summed(getattr(found, _OF_ROWS[name][1]), choosing)
        elif name in _OF_ROWS_EACH:
            values = getattr(found, name).to(found.lse.dtype)
            parts[name] = Part(torch.where(real[:, None], values, 0), real.expand(prompts, -1).long(), 0)
        elif name == "received":
            sums = received(query, key, own, call.scaling, found.lse, real, softcap=call.softcap)
            parts[name] = Part(sums, rows_seeing(own, real, key.shape[2]).expand(prompts, -1), 0)
        else:
            parts[name] = _summed(_divergence(call, found, seen, prompts), choosing)
    return parts


def _is_of_keys(group: Group) -> bool:
    """Whether the group has the same keys for every row."""
    return not any(isinstance(part, Chosen | Recent | SinkRule) for part in parts_of(group))


def _summed(values: Tensor, counted: Tensor) -> Part:
    """Sums over the counted rows [#prompt, row] of values [prompt, head, row]."""
    sums = torch.where(counted[:, None], values, 0).sum(-1, keepdim=True)
    return Part(sums, counted.expand(len(values), -1).sum(-1, keepdim=True), 0)


def _bits(groups: Mapping[str, Group], block: Block, prompts: int) -> Tensor:
    """A bit for each group that a key is in [#prompt, #head, 1, key]."""
    row = last_row(block)
    found = torch.zeros(1, 1, 1, len(block.keys), dtype=torch.uint8, device=block.keys.device)
    for bit, group in enumerate(groups.values()):
        which = keys_of(group, row, {})[:prompts]
        found = found | (which.to(torch.uint8) << bit)
    return found


def _tokens(block: Block, prompts: int, image_token: int | None) -> tuple[Tensor, Tensor]:
    """Ids of rows and keys [prompt, place]. Padding and patches are equal to nothing."""
    tokens, real = block.clock.tokens, block.clock.real
    assert tokens is not None  # head_stats has asked for them
    tokens = tokens[:prompts]
    known = torch.ones_like(tokens, dtype=torch.bool) if real is None else real[:prompts].to(tokens.device)
    if image_token is not None:
        known = known & (tokens != image_token)
    return tokens.where(known, -1), tokens.where(known, -2)


def _divergence(call: Attention, found: RowStats, seen: Seen, prompts: int) -> Tensor:
    """Rows of the first prompts beside those of the same prompts in the other run."""
    own, others = seen.of_prompts(slice(prompts)), slice(prompts, None)
    query, key = call.query[others], call.key[others]
    theirs = row_stats(
        query, key, seen.of_prompts(others), call.scaling, softcap=call.softcap, sinks=call.sinks, what=frozenset()
    )
    return divergence(
        call.query[:prompts],
        call.key[:prompts],
        found.lse,
        query,
        key,
        theirs.lse,
        own,
        call.scaling,
        softcap=call.softcap,
    )
