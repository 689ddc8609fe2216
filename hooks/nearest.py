"""The hint that a misspelt name deserves."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The text " (did you mean 'z'?)" with the nearest known name, to stand behind a wrong one; else ""."""
    near = difflib.get_close_matches(str(name), [*known], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
