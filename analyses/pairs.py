"""A pair of prompts as its author writes it: text or token ids, in Python or as one JSON object a line.

The form, in a file (on one line) and as a Python dict:

    {"clean": "The capital of France is", "corrupted": "The capital of Italy is",
     "answer": " Paris", "foil": " Rome",
     "positions": {"country": 3}, "template": "capital", "prepend_bos": false,
     "answer_set": [" Paris", " Lyon"], "foil_set": [" Rome", " Milan"]}

The first four keys are required. `answer` and `foil` are written as they follow the clean prompt, so mostly
with a leading space; each must be one token. Prompts may be lists of token ids, and answers token ids,
instead of text. `positions` are 0-based token positions, a BOS token included; END is the last one unless it
is given. Pairs that share a `template` are one cluster of the bootstrap. `prepend_bos` is the same in all
pairs: true, false, or left out for what the tokenizer does by itself. The sets are all the tokens that are
right and wrong, text or ids like the answer and the foil, which are among them; left out, they are those two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headlens.hooks.nearest import did_you_mean

REQUIRED = ("clean", "corrupted", "answer", "foil")
SETS = ("answer_set", "foil_set")
KEYS = (*REQUIRED, "positions", "template", "prepend_bos", *SETS)


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted prompt and the two tokens to compare; `where` names the pair in errors."""

    clean: str | list[int]
    corrupted: str | list[int]
    answer: str | int
    foil: str | int
    positions: Mapping[str, int] = field(default_factory=dict)
    template: str = ""
    prepend_bos: bool | None = None
    answer_set: Sequence[str | int] = ()
    foil_set: Sequence[str | int] = ()
    where: str = ""


def as_pair(given: Mapping[str, Any] | Sequence[Any] | Pair, where: str) -> Pair:
    """A pair from a dict of the form above or a tuple (clean, corrupted, answer, foil), or ValueError."""
    if isinstance(given, Pair):
        return replace(given, where=given.where or where)
    if not isinstance(given, Mapping):
        if isinstance(given, str) or not isinstance(given, Sequence) or not 4 <= len(given) <= 6:
            raise ValueError(
                f"{where}: {given!r} is not a pair; give a dict, or a tuple (clean, corrupted, answer, foil"
                "[, positions[, template]])."
            )
        given = dict(zip(KEYS, given, strict=False))
    for key in given:
        if key not in KEYS:
            hint = did_you_mean(key, KEYS)
            raise ValueError(f"{where}: unknown key {key!r}{hint}; a pair has the keys {', '.join(KEYS)}.")
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise ValueError(f"{where}: {' and '.join(map(repr, missing))} missing; a pair needs {', '.join(REQUIRED)}.")
    for key, value in given.items():
        _check_value(key, value, where)
    return Pair(**given, where=where)


def _check_value(key: str, value: Any, where: str) -> None:
    if key in ("clean", "corrupted"):
        fits = isinstance(value, str) or (isinstance(value, list) and all(_is_whole(token) for token in value))
        expected = "text or a list of token ids"
    elif key in ("answer", "foil"):
        fits, expected = isinstance(value, str) or _is_whole(value), "text or a token id"
    elif key == "positions":
        fits = isinstance(value, Mapping) and all(isinstance(n, str) and _is_whole(p) for n, p in value.items())
        expected = 'token positions by name, such as {"S2": 9}'
    elif key == "template":
        fits, expected = isinstance(value, str), "text"
    elif key in SETS:
        fits = isinstance(value, list | tuple) and all(isinstance(token, str) or _is_whole(token) for token in value)
        expected = "a list of texts or token ids"
    else:
        fits, expected = value is None or isinstance(value, bool), "true or false"
    if not fits:
        raise ValueError(f"{where}: {key!r} is {value!r}; it must be {expected}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
