"""Prompt pairs in a file: one JSON object a line, in the form described in headlens.analyses.pairs."""

from collections.abc import Iterable
from pathlib import Path

from headlens.analyses.jsonl_objects import read_objects, write_objects
from headlens.analyses.pairs import FORM, Pair, as_pair


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a file, blank lines skipped, or ValueError with the number of the line that is wrong."""
    return [as_pair(read, where) for where, read in read_objects(path)]


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSONL. The file appears whole or not at all."""
    kept = ({key: getattr(pair, key) for key in FORM.kinds} for pair in pairs)
    write_objects(
        path,
        (
            {key: value for key, value in line.items() if key in FORM.required or value not in ({}, "", None, ())}
            for line in kept
        ),
    )
