"""Settings as TOML text, which the standard library reads but does not write."""

import json
import re
from collections.abc import Mapping
from typing import Any

_WIDTH = 100
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml(settings: Mapping[str, Any]) -> str:
    """Text, numbers, booleans, lists of these, and tables of them; `tomllib.loads` gives the same settings back.

    Tables come last, as TOML wants it. ValueError for any other value, None among them: leave those keys out.
    """
    tables = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in settings.items() if key not in tables}
    parts = [_lines(plain), *(f"[{_key(name)}]\n{_lines(table)}" for name, table in tables.items())]
    return "\n".join(part for part in parts if part)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    # a bool is an int too
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        entries = [_value(entry) for entry in value]
        line = f"[{', '.join(entries)}]"
        return line if len(line) <= _WIDTH else "[\n" + "".join(f"    {entry},\n" for entry in entries) + "]"
    raise ValueError(f"{value!r} cannot be written as TOML; expected text, a number, true or false, or a list.")


def _text(text: str) -> str:
    """A basic string: JSON escapes all that TOML wants escaped, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
