"""Tables of settings: which keys there are and of which type, and one sentence for what does not fit."""

import json
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from headlens.hooks.nearest import did_you_mean

# One of a type in words, and several.
_WORDS = {
    str: ("text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    dict: ("a table", "tables"),
}
_MOST_SHOWN = 60


class Table(BaseModel):
    """A table, whose fields are its keys. Other keys are refused, and nothing is taken for what it is not."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


AnyTable = TypeVar("AnyTable", bound=Table)


def checked(table: type[AnyTable], given: Mapping[str, Any], where: str) -> AnyTable:
    """The table of these settings, read from `where`; ValueError says in a sentence what does not fit."""
    try:
        return table.model_validate(dict(given))
    except ValidationError as error:
        # a slip in a required key leaves that key out too; the slip is what helps
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        raise ValueError(_sentence(table, given, str(first["loc"][0]), first["type"], where)) from None


def _sentence(table: type[Table], given: Mapping[str, Any], key: str, kind: str, where: str) -> str:
    fields = table.model_fields
    if kind == "extra_forbidden":
        hint = did_you_mean(key, fields)
        return f"{where} has an unknown key {key!r}{hint}; its keys are {', '.join(fields)}."
    expected = in_words(fields[key].annotation)
    if kind == "missing":
        return f"{where} has no {key!r}, which must be given; expected {expected}."
    shown = json.dumps(given[key], ensure_ascii=False, default=str)
    shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
    return f"{where} has {key} = {shown}; expected {expected}."


def in_words(annotation: Any, several: bool = False) -> str:
    """A type as a reader would say it: `str | list[str] | None` is "text or a list of texts"."""
    origin = get_origin(annotation) or annotation
    if origin is UnionType:
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return " or ".join(in_words(kind, several) for kind in kinds)
    if origin in (list, Sequence):
        return f"{'lists' if several else 'a list'} of {in_words(*get_args(annotation), several=True)}"
    return _WORDS[origin][several] if origin in _WORDS else str(annotation)
