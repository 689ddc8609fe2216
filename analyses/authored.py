"""What an author writes, in Python or as JSON, read into named values: no key too many, none missing, each of its kind.

The modules headlens.analyses.pairs and headlens.analyses.choice_prompts each have a `Form` that says what is expected.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headlens.hooks.nearest import did_you_mean


@dataclass(frozen=True)
class Kind:
    """What a value must be: a test, and the words for it."""

    fits: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class Form:
    """The keys of what is written, each with its kind; a tuple has the required ones and, if it likes, the others of
    `in_tuples`, in this order."""

    noun: str
    kinds: Mapping[str, Kind]
    required: tuple[str, ...]
    in_tuples: tuple[str, ...]


def read_form(form: Form, given: Any, where: str) -> dict[str, Any]:
    """The values of a dict or a tuple by key, or ValueError, starting with `where`."""
    named = dict(given) if isinstance(given, Mapping) else _by_place(form, given, where)
    for key in named:
        if key not in form.kinds:
            hint = did_you_mean(key, form.kinds) if isinstance(key, str) else ""
            raise ValueError(f"{where}: unknown key {key!r}{hint}; {form.noun} has the keys {', '.join(form.kinds)}.")
    missing = [key for key in form.required if key not in named]
    if missing:
        needed = ", ".join(form.required)
        raise ValueError(f"{where}: {' and '.join(map(repr, missing))} missing; {form.noun} needs {needed}.")
    for key, value in named.items():
        if not form.kinds[key].fits(value):
            raise ValueError(f"{where}: {key!r} is {value!r}; it must be {form.kinds[key].expected}.")
        for leaf in _leaves(value):
            _check_leaf(leaf, f"{where}: {key!r}")
    return named


def _by_place(form: Form, given: Any, where: str) -> dict[str, Any]:
    least, most = len(form.required), len(form.required) + len(form.in_tuples)
    if isinstance(given, str) or not isinstance(given, Sequence) or not least <= len(given) <= most:
        keys = ", ".join(form.required) + "".join(f"[, {key}" for key in form.in_tuples) + "]" * len(form.in_tuples)
        raise ValueError(f"{where}: {given!r} is not {form.noun}; give a dict, or a tuple ({keys}).")
    return dict(zip((*form.required, *form.in_tuples), given, strict=False))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _check_leaf(leaf: Any, where: str) -> None:
    """ValueError for text that is no Unicode and numbers that no tensor can hold; JSON can say both."""
    if isinstance(leaf, str):
        halves = [mark for mark in leaf if "\ud800" <= mark <= "\udfff"]
        if halves:
            raise ValueError(f"{where} contains {halves[0]!r}, half of a surrogate pair; write the whole character.")
    elif isinstance(leaf, int) and not -(2**63) <= leaf < 2**63:
        raise ValueError(f"{where} contains the number {leaf}, which 64 bits cannot hold; give a smaller one.")


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text_or_whole(value: Any) -> bool:
    return is_text(value) or is_whole(value)


TEXT = Kind(is_text, "text")
TEXT_OR_IDS = Kind(
    lambda value: is_text(value) or (isinstance(value, list) and all(map(is_whole, value))),
    "text or a list of token ids",
)
TEXTS_OR_IDS = Kind(
    lambda value: isinstance(value, list | tuple) and all(map(is_text_or_whole, value)),
    "a list of texts or token ids",
)
TRUTH = Kind(lambda value: value is None or isinstance(value, bool), "true or false")
