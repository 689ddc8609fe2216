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
from dataclasses import dataclass, field
from typing import Any

from headlens.analyses.authored import (
    TEXT,
    TEXT_OR_IDS,
    TEXTS_OR_IDS,
    TRUTH,
    Form,
    Kind,
    is_text,
    is_text_or_whole,
    is_whole,
    read_form,
)

TOKEN = Kind(is_text_or_whole, "text or a token id")
POSITIONS = Kind(
    lambda value: isinstance(value, Mapping) and all(is_text(name) and is_whole(at) for name, at in value.items()),
    'token positions by name, such as {"S2": 9}',
)
FORM = Form(
    noun="a pair",
    kinds={
        "clean": TEXT_OR_IDS,
        "corrupted": TEXT_OR_IDS,
        "answer": TOKEN,
        "foil": TOKEN,
        "positions": POSITIONS,
        "template": TEXT,
        "prepend_bos": TRUTH,
        "answer_set": TEXTS_OR_IDS,
        "foil_set": TEXTS_OR_IDS,
    },
    required=("clean", "corrupted", "answer", "foil"),
    in_tuples=("positions", "template"),
)


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
    """A pair from a dict of the form above or a tuple (clean, corrupted, answer, foil[, positions[, template]]), or
    ValueError."""
    if isinstance(given, Pair):
        where = given.where or where
        given = {key: getattr(given, key) for key in FORM.kinds}
    return Pair(**read_form(FORM, given, where), where=where)
