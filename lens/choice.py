"""One name out of several."""

import difflib
from collections.abc import Iterable


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """The name, if it is known; ValueError with the nearest known one if not."""
    choices = list(known)
    if name in choices:
        return name
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"Unknown {what} {name!r}{hint}; choose from {', '.join(choices)}.")
