"""What `head_stats` reads off attention rows: each statistic's units, its sign, and which rows it is about.

A statistic sums a number over rows, block by block, beside how many rows were summed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headlens.hooks.group_masks import keys_of
from headlens.hooks.groups import Group
from headlens.hooks.row_blocks import Block
from headlens.kernels.row_statistics import (
    attention_to,
    distance,
    divergence,
    earlier_copies,
    entropy,
    mass,
    received,
    top_key,
)


@dataclass(frozen=True, eq=False)
class Rows:
    """A block's rows of some prompts, and of the same prompts in another run where there is one."""

    block: Block
    pattern: Float[Tensor, "prompt head row key"]
    other: Float[Tensor, "prompt head row key"] | None = None
    image_token: int | None = None  # stands for every patch of an image, and patches are no copies

    @cached_property
    def real(self) -> Bool[Tensor, "prompt row"]:
        """Rows that are no padding."""
        return self._own(self.block.real)

    @cached_property
    def visible(self) -> Bool[Tensor, "prompt row key"]:
        """Keys that some head may attend to from a row: what an edit hides from one head counts as seen."""
        return self._own(self.block.scores.amax(1) != -torch.inf)

    @cached_property
    def choosing(self) -> Bool[Tensor, "prompt row"]:
        """Real rows that see two keys or more; others have no choice."""
        return self.real & (self.visible.sum(-1) > 1)

    def copies(self, shift: int = 0) -> Bool[Tensor, "prompt 1 row key"]:
        """Keys that stand `shift` tokens behind an earlier copy of a row's own token."""
        block, tokens, real = self.block, self.block.clock.tokens, self.block.clock.real
        assert tokens is not None  # head_stats has asked for them
        tokens = self._own(tokens)
        known = torch.ones_like(tokens, dtype=torch.bool) if real is None else self._own(real)
        if self.image_token is not None:
            known = known & (tokens != self.image_token)
        # padding and patches are equal to nothing, and so is what stands before the first token
        rows, keys = tokens.where(known, -1), nn.functional.pad(tokens.where(known, -2), (shift, 0), value=-2)
        return earlier_copies(rows[:, block.queries], keys[:, block.keys], block.queries, block.keys - shift)

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor[: len(self.pattern)].expand(len(self.pattern), *tensor.shape[1:])


class Part(NamedTuple):
    """Sums over rows, and how many rows are in each, for the places from `start` on: keys, queries, or just one."""

    sums: Float[Tensor, "prompt head place"]
    counts: Int[Tensor, "prompt place"]
    start: int


@dataclass(frozen=True, eq=False)
class Statistic:
    """One number a head (and key or query): the mean of what `measure` sums."""

    dims: tuple[str, ...]
    units: str
    sign: str
    measure: Callable[[Rows], Part]
    group: Group | None = None  # of which it is the attention


def of_group(group: Group) -> Statistic:
    """The attention that goes to a group of keys, resolved to token ids."""
    sign = "Larger means that rows attend more to the group's keys."
    # under which a run keeps what the group remembers from block to block
    key = object()

    def measure(rows: Rows) -> Part:
        memory = rows.block.clock.memory.setdefault((key, rows.block.layer), {})
        which = keys_of(group, rows.block, memory)[: len(rows.pattern)]
        return _over_rows(mass(rows.pattern, which), rows.choosing)

    return Statistic(("layer", "head"), SHARE, sign, measure, group)


def _over_rows(values: Float[Tensor, "prompt head row"], counted: Bool[Tensor, "prompt row"]) -> Part:
    sums = torch.where(counted[:, None], values, 0).sum(-1, keepdim=True)
    return Part(sums, counted.sum(-1, keepdim=True), 0)


def _each_row(values: Float[Tensor, "prompt head row"], rows: Rows) -> Part:
    return Part(torch.where(rows.real[:, None], values, 0), rows.real.long(), int(rows.block.queries[0]))


def _to_copies(rows: Rows, shift: int) -> Part:
    copies = rows.copies(shift)
    return _over_rows(mass(rows.pattern, copies), rows.real & (copies[:, 0] & rows.visible).any(-1))


def _to(rows: Rows, positions: Int[Tensor, "#prompt #row"]) -> Part:
    return _over_rows(attention_to(rows.pattern, positions - rows.block.keys[0]), rows.choosing)


def _entropy(rows: Rows) -> Part:
    return _over_rows(entropy(rows.pattern), rows.choosing)


def _first(rows: Rows) -> Part:
    return _to(rows, rows.block.first_key[: len(rows.pattern)])


def _before(rows: Rows, shift: int) -> Part:
    return _to(rows, rows.block.queries[None] - shift)


def _distance(rows: Rows) -> Part:
    return _over_rows(distance(rows.pattern, rows.block.queries, rows.block.keys), rows.choosing)


def _received(rows: Rows) -> Part:
    seen = (rows.visible & rows.real[..., None]).sum(1)
    return Part(received(rows.pattern, rows.real), seen, int(rows.block.keys[0]))


def _top_key(rows: Rows) -> Part:
    keys = rows.block.keys[top_key(rows.pattern)[0]]
    return _each_row(keys.to(rows.pattern.dtype), rows)


def _top_mass(rows: Rows) -> Part:
    return _each_row(top_key(rows.pattern)[1], rows)


def _divergence(rows: Rows) -> Part:
    assert rows.other is not None  # head_stats has asked for it
    return _over_rows(divergence(rows.pattern, rows.other), rows.choosing)


SHARE = "share of a row's attention"
_HEADS, _KEYS, _QUERIES = (("layer", "head", *more) for more in ((), ("key",), ("query",)))
OF_COPIES = ("duplicate", "induction")
STATISTICS: dict[str, Statistic] = {
    "entropy": Statistic(_HEADS, "nats", "Larger means that rows spread their attention over more keys.", _entropy),
    "first_token": Statistic(_HEADS, SHARE, "Larger means that rows attend more to the first token.", _first),
    "previous_token": Statistic(
        _HEADS, SHARE, "Larger means that rows attend more to the token before their own.", partial(_before, shift=1)
    ),
    "self": Statistic(
        _HEADS, SHARE, "Larger means that rows attend more to their own token.", partial(_before, shift=0)
    ),
    "distance": Statistic(_HEADS, "tokens", "Larger means that rows attend to tokens further away.", _distance),
    "duplicate": Statistic(
        _HEADS,
        SHARE,
        "Larger means that rows attend more to earlier copies of their token.",
        partial(_to_copies, shift=0),
    ),
    "induction": Statistic(
        _HEADS,
        SHARE,
        "Larger means that rows attend more to what came after earlier copies of their token.",
        partial(_to_copies, shift=1),
    ),
    "received": Statistic(
        _KEYS, SHARE, "Larger means that a key is attended to more by the rows that see it.", _received
    ),
    "top_key": Statistic(
        _QUERIES, "position", "The position that a row attends to most; its size means no more.", _top_key
    ),
    "top_mass": Statistic(_QUERIES, SHARE, "Larger means that the row's top key has more of its attention.", _top_mass),
    "divergence": Statistic(_HEADS, "nats", "Larger means that rows attend differently in the other run.", _divergence),
}
