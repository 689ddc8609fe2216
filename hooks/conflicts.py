"""Which edits of a layer go together: refused is what would depend silently on the order."""

from collections.abc import Sequence
from itertools import combinations

import torch

from headlens.hooks.edits import Positions
from headlens.hooks.row_edits import ForceRow
from headlens.hooks.steps import Step
from headlens.hooks.taps import Tap


def refuse_conflicts(acts: Sequence[Tap | Step]) -> None:
    """ValueError for edits of one layer, in the order given, of which no order is the natural one.

    The algebra stands between `attn_scores` and `pattern`. So edits of scores come before it and edits of patterns
    after; given the other way round they would not act in the order given.
    """
    step_before: Step | None = None
    pattern_before: Tap | None = None
    for act in acts:
        if isinstance(act, Step):
            step_before = act
            if pattern_before is not None:
                raise ValueError(
                    f"{act.asked_by} acts before edits of the pattern and was given after {pattern_before.asked_by}; "
                    "give it first."
                )
        elif not act.observes and act.site.name == "pattern":
            pattern_before = act
        elif not act.observes and act.site.name == "attn_scores" and step_before is not None:
            raise ValueError(
                f"{act.asked_by} at {act.site} acts before {step_before.asked_by} and was given after it; "
                "give it first."
            )
    for one, other in combinations([act for act in acts if isinstance(act, Step)], 2):
        shared = sorted({*one.heads} & {*other.heads})
        why = _conflict(one, other)
        if shared and why and _may_meet(one.edit.pos, other.edit.pos):
            raise ValueError(
                f"{one.asked_by} and {other.asked_by} both edit L{one.site.layer}H{shared[0]}: {why}. Use one of them, "
                "different heads, or different rows (pos=)."
            )


def _conflict(one: Step, other: Step) -> str:
    if isinstance(one.edit, ForceRow) or isinstance(other.edit, ForceRow):
        return "a forced row leaves nothing to another edit of it"
    if one.transfers and other.transfers:
        return "what a transfer moves depends on the attention that another left, so their order would matter"
    if (one.transfers and other.reweights) or (other.transfers and one.reweights):
        return "what a transfer moves depends on whether rows are reweighted before or after it"
    return ""


def _may_meet(one: Positions, other: Positions) -> bool:
    """Whether two edits may have a row in common."""
    if one is None or other is None:
        return True
    rows, others = torch.as_tensor(one), torch.as_tensor(other)
    return bool((rows == others).any()) if rows.ndim == others.ndim == 0 or rows.shape == others.shape else True
