"""One name out of several."""

from collections.abc import Iterable

from headlens.hooks.nearest import did_you_mean


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """The name, if it is known; ValueError with the nearest known one if not."""
    choices = list(known)
    if name in choices:
        return name
    hint = did_you_mean(name, choices)
    raise ValueError(f"Unknown {what} {name!r}{hint}; choose from {', '.join(choices)}.")
