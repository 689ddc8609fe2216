"""The recalibration algebra: what is done to rows of attention whose keys are split into groups.

    s' = tau * s + log m_g ;  A' = softmax(s') ;  z' = gamma * sum_g kappa_g * sum_{j in g} A'_j v_j

A row of `groups` says which group each key belongs to, from 0. Temperatures multiply, and so do multipliers m and
kappa, in any order. `transferred` measures the masses that it moves, so its order among these matters.
"""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

# A receiving group with less than this much attention cannot be scaled up to take more.
LEAST = 1e-6


def tempered(
    scores: Float[Tensor, "batch head row key"], tau: Float[Tensor, "*leading #row"]
) -> Float[Tensor, "batch head row key"]:
    """tau * s: above 1 sharpens a row, 0 makes it uniform over its visible keys (those above -inf)."""
    hidden = scores == -torch.inf
    # not torch.where, whose gradient in tau would be 0 times infinity
    return (tau[..., None] * scores.masked_fill(hidden, 0)).masked_fill(hidden, -torch.inf)


def weighted(
    scores: Float[Tensor, "batch head row key"],
    groups: Integer[Tensor, "#batch #head #row key"],
    multipliers: Float[Tensor, " group"],
) -> Float[Tensor, "batch head row key"]:
    """s + log m_g: softmax then divides by what the multiplied attention sums to (policy `renorm`)."""
    return scores + multipliers.log()[groups.long()]


def group_masses(
    pattern: Float[Tensor, "batch head row key"], groups: Integer[Tensor, "#batch #head #row key"], n_groups: int
) -> Float[Tensor, "batch head row {n_groups}"]:
    """How much of each row's attention goes to each group."""
    return torch.stack([torch.where(groups == group, pattern, 0).sum(-1) for group in range(n_groups)], -1)


def transferred(
    pattern: Float[Tensor, "batch head row key"],
    donors: Bool[Tensor, "#batch #head #row key"],
    receivers: Bool[Tensor, "#batch #head #row key"],
    beta: float | Float[Tensor, "#batch #head #row 1"],
) -> tuple[Float[Tensor, "batch head row key"], Bool[Tensor, "batch head row"]]:
    """Donors keep beta of their attention and receivers take the rest, each in proportion to what it has.

    Bystanders keep theirs, so a row's sum stays what it was. Also returned: the rows that had something to give and
    nothing to receive it, which are left alone.
    """
    given = (1 - beta) * torch.where(donors, pattern, 0).sum(-1, keepdim=True)
    taking = torch.where(receivers, pattern, 0).sum(-1, keepdim=True)
    idle = (given > 0) & (taking < LEAST)
    given = given.masked_fill(idle, 0)
    kept = torch.where(donors & ~idle, beta, pattern.new_ones(()))
    factor = torch.where(receivers, 1 + given / taking.clamp(min=LEAST), kept)
    return pattern * factor, idle[..., 0]


def scaled(
    pattern: Float[Tensor, "batch head row key"],
    groups: Integer[Tensor, "#batch #head #row key"],
    multipliers: Float[Tensor, " group"],
) -> Float[Tensor, "batch head row key"]:
    """kappa_g * A: rows then sum to what the groups' masses times their kappa do (policy `raw`)."""
    return pattern * multipliers[groups.long()]
