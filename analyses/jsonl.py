"""Prompt pairs in a file: one JSON object a line, in the form described in headlens.analyses.pairs."""

import json
from collections.abc import Iterable
from pathlib import Path

from headlens.analyses.atomic import write_text
from headlens.analyses.pairs import KEYS, REQUIRED, Pair, as_pair


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a file, blank lines skipped, or ValueError with the number of the line that is wrong."""
    path = Path(path)
    try:
        # not splitlines(), which also splits at marks that a JSON text may contain
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise ValueError(f"There is no file {str(path)!r} to read prompts from.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    return [_read_line(line, f"{path.name}, line {at}") for at, line in enumerate(lines, 1) if line.strip()]


def _read_line(line: str, where: str) -> Pair:
    try:
        read = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error.msg}, column {error.colno}); one object a line is expected."
        ) from None
    if not isinstance(read, dict):
        raise ValueError(f"{where}: {type(read).__name__} found; one JSON object a line is expected.")
    return as_pair(read, where)


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSONL. The file appears whole or not at all."""
    lines = []
    for pair in pairs:
        kept = {key: getattr(pair, key) for key in KEYS}
        line = {key: value for key, value in kept.items() if key in REQUIRED or value not in ({}, "", None, ())}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(lines))
