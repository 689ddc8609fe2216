"""Statistics of rows of attention: the definition of correct, in plain torch.

`pattern` [batch, head, row, key] is any block of rows with the keys that they may see; hidden keys have 0. `queries`
and `keys` are the absolute positions of its rows and keys. A row need not sum to 1: what a learned sink takes, or an
edit left out, is no key's.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def entropy(pattern: Float[Tensor, "batch head row key"]) -> Float[Tensor, "batch head row"]:
    """-sum of A ln A over keys, in nats: 0 where one key has everything, ln n for equal shares of n keys."""
    least = torch.finfo(pattern.dtype).tiny
    # 0 ln 0 is 0; torch.special.entr says so too and takes twice as long
    return -pattern.clamp(min=least).log_().mul_(pattern).sum(-1)


def attention_to(
    pattern: Float[Tensor, "batch head row key"], columns: Int[Tensor, "#batch #row"]
) -> Float[Tensor, "batch head row"]:
    """Each row's attention to one key, given by its place among the block's keys; 0 where there is no such place."""
    there = (columns >= 0) & (columns < pattern.shape[-1])
    index = torch.where(there, columns, 0)[:, None, :, None].expand(*pattern.shape[:3], 1)
    return pattern.gather(-1, index)[..., 0] * there[:, None]


def mass(
    pattern: Float[Tensor, "batch head row key"], which: Bool[Tensor, "#batch #head #row key"]
) -> Float[Tensor, "batch head row"]:
    """Each row's attention to these keys together."""
    return (pattern * which).sum(-1)


def distance(
    pattern: Float[Tensor, "batch head row key"], queries: Int[Tensor, " row"], keys: Int[Tensor, " key"]
) -> Float[Tensor, "batch head row"]:
    """How many tokens away the attended keys are, on either side: the mean of |query - key| weighted by attention."""
    apart = (queries[:, None] - keys).abs().to(pattern.dtype)
    return (pattern * apart).sum(-1) / pattern.sum(-1).clamp(min=torch.finfo(pattern.dtype).tiny)


def earlier_copies(
    row_tokens: Int[Tensor, "batch row"],
    key_tokens: Int[Tensor, "batch key"],
    queries: Int[Tensor, " row"],
    keys: Int[Tensor, " key"],
) -> Bool[Tensor, "batch 1 row key"]:
    """Which keys stand before a row and have its token.

    The tokens behind earlier copies are had by naming to each key the token before it, and that token's position.
    """
    return ((row_tokens[:, :, None] == key_tokens[:, None]) & (keys < queries[:, None]))[:, None]


def received(
    pattern: Float[Tensor, "batch head row key"], rows: Bool[Tensor, "#batch row"]
) -> Float[Tensor, "batch head key"]:
    """What each key is given by these rows together."""
    return (pattern * rows[:, None, :, None]).sum(2)


def top_key(
    pattern: Float[Tensor, "batch head row key"],
) -> tuple[Int[Tensor, "batch head row"], Float[Tensor, "batch head row"]]:
    """The place, among the block's keys, of the key that each row attends to most, and what it has of the row."""
    most, at = pattern.max(-1)
    return at, most


def divergence(
    one: Float[Tensor, "batch head row key"], other: Float[Tensor, "batch head row key"]
) -> Float[Tensor, "batch head row"]:
    """Jensen-Shannon divergence of two blocks' rows, in nats: 0 for equal rows, ln 2 for rows that share no key.

    (A ln(A / M) + B ln(B / M)) / 2 summed over keys, M = (A + B) / 2.
    """
    accuracy = torch.finfo(one.dtype)
    # A = M (1 + apart) and B = M (1 - apart): no two large sums are subtracted where the rows are nearly equal
    apart = (one - other) / (one + other).clamp(min=accuracy.tiny)
    # the logarithm of 0 is multiplied by 0
    apart = apart.clamp(accuracy.eps - 1, 1 - accuracy.eps)
    return (one * apart.log1p() + other * (-apart).log1p()).sum(-1) / 2
