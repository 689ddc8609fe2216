"""Rows of a bench as CSV, each with what it was measured on."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any


def rows_as_csv(kind: type, rows: Sequence[Any], about: Mapping[str, Any]) -> str:
    """Rows of the dataclass `kind`, a line each with `about` behind it; empty where there is no figure."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*(field.name for field in fields(kind)), *about], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        short = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
        writer.writerow({**short, **about})
    return buffer.getvalue()
