"""Recalibrations that one pass over a layer's keys can do, of one call each for the heads that are edited alike.

That takes groups of keys that are the same for every row (or the newest keys of each), one such step a head, and no
bias of single scores. Sinks of whole prompts are such groups, and found before (`headlens.hooks.sinks_at_once`).
Whatever else an edit asks is done block by block (`headlens.hooks.row_blocks`).
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
from headlens.hooks.sinks_at_once import with_sinks_found
from headlens.hooks.steps import Step
from headlens.hooks.unscored_rows import last_row, unscored_rows
from headlens.kernels.dispatch import choice
from headlens.kernels.operations import grouped_attention
from headlens.kernels.recalibration import DONORS, Change, Groups, Recalibrated
from headlens.kernels.seen import Seen

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
    if not all(_fits(own, clock) for own in by_head.values()):
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
            found.extend(part)
            fired.update(acting)
    for step in fired:
        step.fired.append(True)
    return found


def _fits(steps: Sequence[Step], clock: Clock) -> bool:
    """Whether these are temperatures and one more, at most, with groups that are the same for all rows."""
    taus = [getattr(step.edit, "tau", None) for step in steps]
    if any(isinstance(tau, Tensor) and tau.requires_grad for tau in taus):
        return False
    others = [step for step in steps if not isinstance(step.edit, Temperature)]
    return len(others) <= 1 and all(_has_groups_of_keys(step, clock) for step in others)


def _has_groups_of_keys(step: Step, clock: Clock) -> bool:
    if isinstance(step.edit, KnockOut) and step.edit.edges:
        return False
    if any(isinstance(part, Chosen) for part in step.parts):
        return False
    # a cached step does not see all rows of the prompt, which blocks refuse where it matters
    if any(isinstance(part, SinkRule) and (clock.past or not part.of_whole_prompts) for part in step.parts):
        return False
    named = [group for group in step.groups.values() if not isinstance(group, str)]
    newest = [part for part in step.parts if isinstance(part, Recent)]
    # a key that is among the newest of one row may be in another group of another row
    return not newest or len(newest) == len(named) == 1


def _recalibrated(call: Attention, steps: Sequence[Step], block: Block, clock: Clock) -> list[Rows] | None:
    """What heads with the same steps say, those left out whose rows all stay as they are. None is as in `one_pass`."""
    whole = seen_by(call, clock, int(block.keys[0]))
    groups, change = _groups(steps, call, whole, block), _change(steps, block)
    if groups is None:
        return None
    giving = _giving(groups, change)
    if giving == []:
        return []
    if giving is not None:
        call, block = of_heads(call, giving), block.of_heads([block.heads[at] for at in giving])
        groups = replace(groups, index=groups.index[:, giving])
    first, count = block.first_row, len(block.queries)
    mask = whole.mask if whole.mask is None or whole.mask.shape[2] == 1 else whole.mask[:, :, first : first + count]
    seen, query = replace(whole, past=whole.past + first, mask=mask), call.query[:, :, first : first + count]
    found = grouped_attention(query, call.key, call.value, seen, call.scaling, groups, change, call.softcap, call.sinks)
    moved = _moved(found, change)
    # blocks say which row that is, or can tell what it has left
    if change.multipliers is not None and (found.emptied & moved).any():
        return None
    moving = moved.any(2).any(0).nonzero()[:, 0].tolist()
    if not moving:
        return []
    z = found.z if len(moving) == len(block.heads) else found.z[:, :, moving]
    return [Rows(tuple(block.heads[at] for at in moving), first, z, moved.any(1))]


def _giving(groups: Groups, change: Change) -> list[int] | None:
    """The heads that have donors, by their places, where heads have groups of their own and only donors matter."""
    if groups.index.shape[1] == 1 or change.beta is None or change.tau is not None:
        return None
    return (groups.index == DONORS).any(3).any(2).any(0).nonzero()[:, 0].tolist()


def _moved(found: Recalibrated, change: Change) -> Bool[Tensor, "batch head row"]:
    """Rows that are no longer as the model has them; others are to stay so, bit for bit."""
    moved = torch.zeros_like(found.idle)
    if change.tau is not None:
        moved = moved | (change.tau != 1)
    for weights in (change.multipliers, change.kappa):
        if weights is not None:
            moved = moved | ((weights != 1) & (found.masses > 0)).any(-1)
    if change.beta is not None:
        moved = moved | ((change.beta != 1) & (found.masses[..., DONORS] > 0) & ~found.idle)
    return moved


def _groups(steps: Sequence[Step], call: Attention, seen: Seen, block: Block) -> Groups | None:
    """The groups of keys, or None where blocks are to say which they are."""
    split = [step for step in steps if not isinstance(step.edit, Temperature)]
    if not split:
        return Groups(torch.zeros(1, 1, 1, len(block.keys), dtype=torch.uint8, device=block.keys.device), 1)
    step = split[0]
    known = with_sinks_found(step.groups, call, seen, block)
    if known is None:
        return None
    fixed = {name: group if isinstance(group, str) else _without_newest(group) for name, group in known.items()}
    try:
        index = partition(fixed, last_row(block), block.clock.memory.setdefault(step, {}))
    except ValueError:
        # blocks know whether any row sees a key that is in two groups, and name it
        return None
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
            case Recalibrate(beta=beta):
                assert beta is not None  # the case before
                parts["beta"] = torch.where(rows, beta, 1.0)
    return Change(**parts)


def _at(rows: Bool[Tensor, "#batch 1 row"], weights: Sequence[float]) -> Float[Tensor, "#batch 1 row group"]:
    """These weights of groups at these rows, and 1 at others."""
    return torch.where(rows[..., None], torch.tensor(weights, device=rows.device), 1.0)
