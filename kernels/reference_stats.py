"""Statistics of attention rows on whole patterns: the definition of correct for the kernels that never store one.

Scores are computed in float32 at least, whatever the inputs are, as exactly as the kernels do it.
"""

from collections.abc import Set

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from headlens.kernels import row_statistics as of_pattern
from headlens.kernels.reference import attention_pattern, attention_scores
from headlens.kernels.row_stats import RowStats, check
from headlens.kernels.seen import Seen


def row_stats(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    seen: Seen,
    scaling: float,
    *,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
    what: Set[str] = frozenset(),
    row_tokens: Int[Tensor, "batch row"] | None = None,
    key_tokens: Int[Tensor, "batch key"] | None = None,
    groups: UInt8[Tensor, "#batch #head #*row key"] | None = None,
    n_groups: int = 0,
) -> RowStats:
    """Numbers of each row, those in `what` (some of `headlens.kernels.row_stats.NAMES`; "self" is returned as `own`).

    `softcap` and `sinks` are as in `headlens.kernels.reference.attention_scores` and `attention_pattern`. `row_tokens`
    and `key_tokens` are token ids, -1 and -2 for rows and keys that equal nothing. Bit g of `groups` is set where a key
    is in group g, for all rows or for each; groups may overlap. The `lse` of a row that sees no key is that of what is
    left to divide by: its learned sink's logit, or -inf.

    ValueError for unknown statistics, copies of tokens without the tokens, and more than eight groups.
    """
    check(what, row_tokens, key_tokens, groups, n_groups)
    rows, keys, device = query.shape[2], key.shape[2], query.device
    scores = _scores(query, key, seen, scaling, softcap)
    empty = scores.amax(-1) == -torch.inf
    pattern = attention_pattern(scores, sinks).masked_fill(empty[..., None], 0)
    at, places = torch.arange(seen.past, seen.past + rows, device=device), torch.arange(keys, device=device)
    found: dict[str, Tensor] = {"lse": _divisor(scores, sinks)}
    if "entropy" in what:
        found["entropy"] = of_pattern.entropy(pattern)
    if "first" in what:
        first = at.new_zeros(1) if seen.first is None else seen.first
        found["first"] = of_pattern.attention_to(pattern, first[:, None])
    if "previous" in what:
        found["previous"] = of_pattern.attention_to(pattern, at[None] - 1)
    if "self" in what:
        found["own"] = of_pattern.attention_to(pattern, at[None])
    if "distance" in what:
        found["distance"] = of_pattern.distance(pattern, at, places)
    for name, shift in (("duplicate", 0), ("induction", 1)):
        if name in what:
            assert row_tokens is not None and key_tokens is not None  # `check` has asked for them
            moved = nn.functional.pad(key_tokens, (shift, 0), value=-2)[:, :keys]
            copies = of_pattern.earlier_copies(row_tokens, moved, at, places - shift)
            found[name] = of_pattern.mass(pattern, copies)
            found[f"has_{name}"] = (copies & (scores != -torch.inf)).any(-1)
    if "top" in what:
        found["top_key"], found["top_mass"] = of_pattern.top_key(pattern)
    if groups is not None:
        bits = groups.reshape(*groups.shape[:2], -1, keys)
        masses = [of_pattern.mass(pattern, (bits >> group) & 1 == 1) for group in range(n_groups)]
        found["masses"] = torch.stack(masses, -1)
    return RowStats(**found)


def received(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    seen: Seen,
    scaling: float,
    lse: Float[Tensor, "batch head row"],
    counted: Bool[Tensor, "#batch row"],
    *,
    softcap: float | None = None,
) -> Float[Tensor, "batch head key"]:
    """The attention that each key is given by the counted rows together; `lse` is as `row_stats` returned it."""
    return of_pattern.received(_pattern(query, key, seen, scaling, lse, softcap), counted)


def divergence(
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head key d"],
    lse: Float[Tensor, "batch head row"],
    other_query: Float[Tensor, "batch head row d"],
    other_key: Float[Tensor, "batch kv_head key d"],
    other_lse: Float[Tensor, "batch head row"],
    seen: Seen,
    scaling: float,
    *,
    softcap: float | None = None,
) -> Float[Tensor, "batch head row"]:
    """Jensen-Shannon divergence of two runs' rows, in nats: 0 for equal rows, ln 2 for rows that share no key.

    Each `lse` is as `row_stats` returned it. A row that sees no key has 0.
    """
    one = _pattern(query, key, seen, scaling, lse, softcap)
    return of_pattern.divergence(one, _pattern(other_query, other_key, seen, scaling, other_lse, softcap))


def _scores(
    query: Tensor, key: Tensor, seen: Seen, scaling: float, softcap: float | None
) -> Float[Tensor, "batch head row key"]:
    wide = torch.promote_types(query.dtype, torch.float32)
    allowed = seen.allowed(query.shape[2], key.shape[2], query.device)
    return attention_scores(query.to(wide), key.to(wide), allowed, scaling, softcap=softcap)


def _pattern(
    query: Tensor, key: Tensor, seen: Seen, scaling: float, lse: Tensor, softcap: float | None
) -> Float[Tensor, "batch head row key"]:
    scores = _scores(query, key, seen, scaling, softcap)
    return torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0)[..., None])


def _divisor(
    scores: Float[Tensor, "batch head row key"], sinks: Float[Tensor, " head"] | None
) -> Float[Tensor, "batch head row"]:
    over_keys = scores.logsumexp(-1)
    return over_keys if sinks is None else torch.logaddexp(over_keys, sinks[:, None].to(scores.dtype))
