"""The text under a position: its token, or the most common one where prompts differ, with a mark and its share."""

from collections.abc import Sequence
from typing import Any

from headlens.analyses.headmap import HeadMap

_POSITIONS = ("pos", "query", "key")


def token_labels(headmap: HeadMap, dim: str) -> list[tuple[str, str]] | None:
    """For each entry of a dim of positions, its token and a remark: ("Mary…", "in 12% of prompts"), ("to", "").

    They come from `provenance["tokens"]`, a list over positions of [text, share of the prompts that have it there].
    Entries that are named, such as "END", or lie beyond the list have ("", ""). None where no entry has a token.
    """
    tokens = headmap.provenance.get("tokens")
    if dim not in _POSITIONS or not isinstance(tokens, Sequence):
        return None
    labels = [
        marked(tokens[place]) if isinstance(place, int) and 0 <= place < len(tokens) else ("", "")
        for place in headmap.coords[dim]
    ]
    return labels if any(text for text, _ in labels) else None


def marked(token: Any) -> tuple[str, str]:
    """A token [text, share] and its remark; ("", "") for what is no such pair."""
    match token:
        case [str(text), int() | float() as share]:
            return (text, "") if share >= 1 else (f"{text}…", f"in {_percent(share)} of prompts")
    return "", ""


def described(tokens: Sequence[tuple[str, str]]) -> str:
    """The tokens of one cell in words: “to” for a position, “to” → “Mary…” (in 12% of prompts) for query and key."""
    return " → ".join(f"“{text}” ({remark})" if remark else f"“{text}”" for text, remark in tokens if text)


def _percent(share: float) -> str:
    return "under 1%" if share < 0.01 else f"{min(share, 0.99):.0%}"
