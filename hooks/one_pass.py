"""Recalibrations that one pass over a layer's keys can do, of one call each for the heads that are edited alike.

That takes groups of keys that are the same for every row (or the newest keys of each), one such step a head, and no
bias of single scores. Whatever else an edit asks is done block by block (`headlens.hooks.row_blocks`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.hooks.clock import Clock
from headlens.hooks.group_masks import partition
from headlens.hooks.groups import Chosen, Either, Group, Positions, Recent, parts_of
from headlens.hooks.intercept import Attention
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_blocks import Block, of_heads
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.seen_rows import seen_by
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.steps import Step
from headlens.hooks.unscored_rows import last_row, unscored_rows
from headlens.kernels.dispatch import choice
from headlens.kernels.operations import grouped_attention
from headlens.kernels.recalibration import Change, Groups

_NO_KEYS = Positions(torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Rows:
    """What some heads say at the rows that their steps are about, from the call's row `first` on."""

    heads: tuple[int, ...]
    first: int
    z: Float[Tensor, "batch row head d"]
    own: Bool[Tensor, "#batch row"]


def one_pass(
    call: Attention, steps: Sequence[Step], layer: int, clock: Clock, key_start: int, rows: tuple[int, int]
) -> list[Rows] | None:
    """What steps make of the call's rows from rows[0] up to rows[1], or None where that is to be done in blocks."""
    if not choice(call.query, call.key, call.value).kernel or call.bias is not None:
        return None
    if call.mask is not None and call.mask.dtype != torch.bool:
        return None
    if rows[0] >= rows[1]:
        return []
    by_head: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        for head in step.heads:
            by_head[head].append(step)
    if not all(map(_fits, by_head.values())):
        return None
    alike: dict[tuple[Step, ...], list[int]] = defaultdict(list)
    for head, own in sorted(by_head.items()):
        alike[tuple(own)].append(head)
    found: list[Rows] = []
    fired: set[Step] = set()
    for own, heads in alike.items():
        block = unscored_rows(call, heads, layer, clock, key_start, rows)
        acting = [step for step in own if step.rows(block).any()]
        if acting:
            part = _recalibrated(of_heads(call, heads), acting, block, clock)
            if part is None:
                return None
            found.append(part)
            fired.update(acting)
    for step in fired:
        step.fired.append(True)
    return found


def _fits(steps: Sequence[Step]) -> bool:
    """Whether these are temperatures and one more, at most, with groups that are the same for all rows."""
    taus = [getattr(step.edit, "tau", None) for step in steps]
    if any(isinstance(tau, Tensor) and tau.requires_grad for tau in taus):
        return False
    others = [step for step in steps if not isinstance(step.edit, Temperature)]
    return len(others) <= 1 and all(map(_has_groups_of_keys, others))


def _has_groups_of_keys(step: Step) -> bool:
    if isinstance(step.edit, KnockOut) and step.edit.edges:
        return False
    if any(isinstance(part, Chosen | SinkRule) for part in step.parts):
        return False
    named = [group for group in step.groups.values() if not isinstance(group, str)]
    newest = [part for part in step.parts if isinstance(part, Recent)]
    # a key that is among the newest of one row may be in another group of another row
    return not newest or len(newest) == len(named) == 1


def _recalibrated(call: Attention, steps: Sequence[Step], block: Block, clock: Clock) -> Rows | None:
    first, count, change = block.first_row, len(block.queries), _change(steps, block)
    whole = seen_by(call, clock, int(block.keys[0]))
    mask = whole.mask if whole.mask is None or whole.mask.shape[2] == 1 else whole.mask[:, :, first : first + count]
    seen = replace(whole, past=whole.past + first, mask=mask)
    query, groups = call.query[:, :, first : first + count], _groups(steps, block)
    found = grouped_attention(query, call.key, call.value, seen, call.scaling, groups, change, call.softcap, call.sinks)
    own = _moving(change)
    # blocks say which row that is, or can tell what it has left
    return None if (found.emptied & own[:, None]).any() else Rows(block.heads, first, found.z, own)


def _moving(change: Change) -> Bool[Tensor, "#batch row"]:
    """Rows with a setting that is not neutral; others are to stay as they are, bit for bit."""
    parts = [part for part in vars(change).values() if part is not None]
    each = [(part != 1).any(-1) if part.ndim == 4 else part != 1 for part in parts]
    return torch.stack(torch.broadcast_tensors(*each)).any(0)[:, 0]


def _groups(steps: Sequence[Step], block: Block) -> Groups:
    split = [step for step in steps if not isinstance(step.edit, Temperature)]
    if not split:
        return Groups(torch.zeros(1, 1, 1, len(block.keys), dtype=torch.uint8, device=block.keys.device), 1)
    step = split[0]
    fixed = {name: group if isinstance(group, str) else _without_newest(group) for name, group in step.groups.items()}
    index = partition(fixed, last_row(block), block.clock.memory.setdefault(step, {}))
    named = [(at, group) for at, group in enumerate(step.groups.values(), 1) if not isinstance(group, str)]
    recent = [(part.n, at) for at, group in named for part in parts_of(group) if isinstance(part, Recent)]
    return Groups(index, 1 + len(step.groups), recent[0] if recent else None)


def _without_newest(group: Group) -> Group:
    if isinstance(group, Either):
        return Either(tuple(map(_without_newest, group.groups)))
    return _NO_KEYS if isinstance(group, Recent) else group


def _change(steps: Sequence[Step], block: Block) -> Change:
    parts: dict[str, Tensor] = {}
    for step in steps:
        rows = step.rows(block)[:, None]  # batch head row
        match step.edit:
            case Temperature():
                tau = torch.where(rows, step.edit.of_rows(block.queries), 1.0)
                parts["tau"] = parts.get("tau", 1) * tau
            case ForceRow():
                parts["tau"] = parts.get("tau", 1) * torch.where(rows, 0.0, 1.0)
                parts["multipliers"] = _at(rows, [0.0, 1.0])
            case KnockOut():
                parts["multipliers" if step.reweights else "kappa"] = _at(rows, [1.0, 0.0])
            case Recalibrate(beta=None):
                parts["multipliers" if step.reweights else "kappa"] = _at(rows, step.edit.weights())
            case Recalibrate():
                parts["beta"] = torch.where(rows, step.edit.beta, 1.0)
    return Change(**parts)


def _at(rows: Bool[Tensor, "#batch 1 row"], weights: Sequence[float]) -> Float[Tensor, "#batch 1 row group"]:
    """These weights of groups at these rows, and 1 at others."""
    return torch.where(rows[..., None], torch.tensor(weights, device=rows.device), 1.0)
