"""Groups of keys, as frozen values: by position, token, kind of token, image patch, residual stream, or detected sink.

Where an edit takes a group, plain values stand for the common ones: a number or a list of numbers for positions, a
[prompt, n] tensor for each prompt's own, "first" for the first token, "image", "punctuation" and so on, a list of
groups for all of them together, a function of your own, and a result of `find_sinks` for its rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens.hooks.nearest import did_you_mean
from headlens.hooks.row_blocks import Block
from headlens.hooks.sink_rule import SinkRule

KINDS = ("special", "newline", "space", "punctuation", "number", "word")


def _check_count(group: Any) -> None:
    if not isinstance(group.n, int) or group.n < 1:
        raise ValueError(f"{group!r} was given; expected a whole number of tokens from 1.")


def _whole_numbers(given: Any, name: str, expected: str) -> tuple[int, ...]:
    try:
        numbers = tuple(index(number) for number in given)
    except TypeError:
        numbers = (-1,)
    if any(number < 0 for number in numbers):
        raise ValueError(f"{name} was given {given!r}; expected whole numbers from 0: {expected}.")
    return numbers


@dataclass(frozen=True, eq=False)
class Positions:
    """Keys at these absolute positions, padding counted: [n] in every prompt, or [prompt, n]."""

    at: Tensor

    def __post_init__(self) -> None:
        at = torch.as_tensor(self.at)
        if at.dtype.is_floating_point or at.dtype == torch.bool or at.ndim not in (1, 2) or (at < 0).any():
            raise ValueError(f"Positions {at.tolist()} were given; expected whole numbers from 0, [n] or [prompt, n].")
        object.__setattr__(self, "at", at)


@dataclass(frozen=True)
class First:
    """The first n tokens of each prompt behind its padding."""

    n: int = 1

    def __post_init__(self) -> None:
        _check_count(self)


@dataclass(frozen=True)
class Recent:
    """Keys less than n positions before the row's own, itself among them: a window."""

    n: int

    def __post_init__(self) -> None:
        _check_count(self)


@dataclass(frozen=True)
class TokenIds:
    """Keys whose token is one of these."""

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _whole_numbers(self.ids, "TokenIds", "token ids, such as TokenIds((13, 198))"))


@dataclass(frozen=True)
class Words:
    """Keys whose token is one of these texts, each one token: Words(".", "\\n")."""

    texts: tuple[str, ...]

    def __init__(self, *texts: str) -> None:
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"Words were given {texts!r}; expected texts one by one, such as Words('.', ',').")
        object.__setattr__(self, "texts", texts)


@dataclass(frozen=True)
class Kind:
    """Keys whose token is of this kind: special, newline, space, punctuation, number or word."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            hint = did_you_mean(self.name, KINDS)
            raise ValueError(f"Unknown kind of token {self.name!r}{hint}; the kinds are {', '.join(KINDS)}.")


@dataclass(frozen=True)
class Image:
    """Keys that are image patches."""


@dataclass(frozen=True)
class Massive:
    """Tokens with a massive activation: the residual stream before the layer, divided by its root mean square, is
    larger than `above` in magnitude at one of these dimensions (2503.03321 has 20)."""

    dims: tuple[int, ...]
    above: float = 20.0

    def __post_init__(self) -> None:
        dims = _whole_numbers(self.dims, "Massive", "dimensions of the residual stream, such as Massive((138, 378))")
        if not dims or not self.above > 0:
            raise ValueError(
                f"Massive was given dims={dims} and above={self.above}; expected one dimension or more, and a positive "
                "number of root mean squares."
            )
        object.__setattr__(self, "dims", dims)


@dataclass(frozen=True)
class Either:
    """Keys that are in any of these groups."""

    groups: tuple["Group", ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("Either was given no groups; give one or more.")
        object.__setattr__(self, "groups", tuple(as_group(each) for each in self.groups))


@dataclass(frozen=True)
class Chosen:
    """Keys that a function chooses: `function(block)` returns booleans [#batch, #head, #row, key].

    `block` (`headlens.hooks.row_blocks.Block`) has `.layer`, `.heads`, `.queries`, `.keys`, `.pattern`, `.visible`, and
    `.clock`, whose `memory` a function may use to bring something from one layer to the next.
    """

    function: Callable[[Block], Any]


Group = Positions | First | Recent | TokenIds | Words | Kind | Image | Massive | Either | Chosen | SinkRule
_NAMED: dict[str, Group] = {"first": First(), "image": Image(), **{kind: Kind(kind) for kind in KINDS}}


def as_group(given: Any) -> Group:
    """The group that a plain value stands for; ValueError says what was expected."""
    if isinstance(given, Group):
        return given
    rule = getattr(given, "rule", None)
    if isinstance(rule, SinkRule):
        return rule
    if isinstance(given, str):
        if given not in _NAMED:
            hint = did_you_mean(given, _NAMED)
            raise ValueError(f"Unknown group {given!r}{hint}; groups with a name are {', '.join(_NAMED)}.")
        return _NAMED[given]
    if callable(given):
        return Chosen(given)
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given)
    if isinstance(given, Tensor):
        return Positions(given.reshape(-1) if given.ndim == 0 else given)
    if _is_whole(given):
        return Positions(torch.tensor([int(given)]))
    if isinstance(given, Sequence | range) and len(given):
        if all(_is_whole(entry) for entry in given):
            return Positions(torch.tensor([int(entry) for entry in given]))
        return Either(tuple(given))
    raise ValueError(
        f"{given!r} is not a group of keys; give positions, a name such as 'first' or 'punctuation', a group of "
        "headlens.hooks.groups, a function of a block, or what find_sinks returned."
    )


def _is_whole(given: Any) -> bool:
    return isinstance(given, Integral) and not isinstance(given, bool)


def parts_of(group: Group) -> tuple[Group, ...]:
    """The group itself, or all that it unites."""
    return tuple(part for each in group.groups for part in parts_of(each)) if isinstance(group, Either) else (group,)
