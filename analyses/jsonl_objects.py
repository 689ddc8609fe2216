"""Files with one JSON object a line, whatever the objects mean."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headlens.analyses.atomic import write_text


def read_objects(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file, blank lines skipped, each behind the words that name its line in errors.

    ValueError for a file that is not there or is not UTF-8 text, or with the number of a line that is no JSON object.
    """
    path = Path(path)
    try:
        # not splitlines(), which also splits at marks that a JSON text may contain
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise ValueError(f"There is no file {str(path)!r} to read prompts from.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    numbered = [(f"{path.name}, line {at}", line) for at, line in enumerate(lines, 1) if line.strip()]
    return [(where, _object_of(line, where)) for where, line in numbered]


def _object_of(line: str, where: str) -> dict[str, Any]:
    try:
        read = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error.msg}, column {error.colno}); one object a line is expected."
        ) from None
    except (ValueError, RecursionError) as error:
        # a number of thousands of digits, or thousands of brackets
        raise ValueError(f"{where}: Python cannot read this JSON ({error}); give smaller values.") from None
    if not isinstance(read, dict):
        raise ValueError(f"{where}: {type(read).__name__} found; one JSON object a line is expected.")
    return read


def write_objects(path: str | Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSONL. The file appears whole or not at all."""
    write_text(Path(path), "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects))
