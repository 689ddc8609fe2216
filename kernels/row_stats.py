"""What is read off attention rows in one pass, whoever reads it: the names, the result, and what is refused."""

from collections.abc import Set
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

MOST_GROUPS = 8
OF_COPIES = frozenset({"duplicate", "induction"})
NAMES = OF_COPIES | {"entropy", "first", "previous", "self", "distance", "top"}


@dataclass(frozen=True, eq=False)
class RowStats:
    """Numbers of each row of attention A [key], None where they were not asked for. A learned sink is no key.

    A row that sees no key has 0 everywhere else than in `lse`.

    `lse`: natural logarithm of what softmax divides by, the learned sink's part included, so that a row that sees no
    key has the sink's logit, or -inf without one. `entropy`: -sum of A ln A, in nats. `first`, `previous`, `own`:
    attention to the prompt's first key, the key before the row's own, and its own. `distance`: mean of |own - key|
    weighted by A, in keys. `duplicate`: attention to earlier keys with the row's token; `induction`: to keys right
    behind such keys, which may be the row's own; `has_...`: whether it sees any. `top_key`, `top_mass`: the key that it
    attends to most, the first of several, and what this has. `masses`: attention to each group.
    """

    lse: Float[Tensor, "batch head row"]
    entropy: Float[Tensor, "batch head row"] | None = None
    first: Float[Tensor, "batch head row"] | None = None
    previous: Float[Tensor, "batch head row"] | None = None
    own: Float[Tensor, "batch head row"] | None = None
    distance: Float[Tensor, "batch head row"] | None = None
    duplicate: Float[Tensor, "batch head row"] | None = None
    has_duplicate: Bool[Tensor, "batch head row"] | None = None
    induction: Float[Tensor, "batch head row"] | None = None
    has_induction: Bool[Tensor, "batch head row"] | None = None
    top_key: Int[Tensor, "batch head row"] | None = None
    top_mass: Float[Tensor, "batch head row"] | None = None
    masses: Float[Tensor, "batch head row group"] | None = None


def check(
    what: Set[str], row_tokens: Tensor | None, key_tokens: Tensor | None, groups: Tensor | None, n_groups: int
) -> None:
    """ValueError for unknown statistics, copies of tokens without the tokens, and more groups than there are bits."""
    if unknown := sorted(what - NAMES):
        raise ValueError(f"{unknown[0]!r} is no statistic of attention rows; expected some of {sorted(NAMES)}.")
    if what & OF_COPIES and (row_tokens is None or key_tokens is None):
        raise ValueError(f"{min(what & OF_COPIES)!r} is about copies of tokens; give row_tokens and key_tokens.")
    if n_groups not in (range(1) if groups is None else range(1, MOST_GROUPS + 1)):
        raise ValueError(
            f"n_groups={n_groups} was given {'without' if groups is None else 'with'} groups; expected 1 to "
            f"{MOST_GROUPS} with the bits of groups, and 0 without."
        )
