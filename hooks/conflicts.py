"""Which edits of a layer go together: refused is what would depend silently on the order."""

from collections.abc import Sequence
from itertools import combinations

import torch

from headlens.hooks.row_edits import ForceRow, Temperature
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
                    "give it first (a hook that only looks can come last)."
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
        if shared and why and _may_meet(one, other):
            raise ValueError(f"{one.asked_by} and {other.asked_by} both edit L{one.site.layer}H{shared[0]}: {why}.")


def _conflict(one: Step, other: Step) -> str:
    """What speaks against these two, in this order, and what to do."""
    instead = "Use one of them, different heads, or different rows (pos=)"
    if isinstance(one.edit, ForceRow) or isinstance(other.edit, ForceRow):
        return f"a forced row leaves nothing to another edit of it. {instead}"
    if one.transfers and other.transfers:
        return (
            f"what a transfer moves depends on the attention that another left, so their order would matter. {instead}"
        )
    if (one.transfers and other.reweights) or (other.transfers and one.reweights):
        return f"what a transfer moves depends on whether rows are reweighted before or after it. {instead}"
    if (one.transfers and isinstance(other.edit, Temperature)) or (other.transfers and one.scales):
        return "a transfer acts after temperatures and before policy raw. Give them in that order"
    return ""


def _may_meet(one: Step, other: Step) -> bool:
    """Whether two edits may have a row in common."""
    rows, others = one.rows_named, other.rows_named
    if rows is None or others is None:
        return True
    by_prompt = rows.shape == others.shape and one.edit.pos is not None and other.edit.pos is not None
    return bool((rows == others).any() if by_prompt else torch.isin(rows, others).any())
