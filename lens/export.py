"""Head maps in the formats of other tools. The same map makes the same bytes in each of them."""

import difflib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headlens.analyses.atomic import write_bytes, write_text
from headlens.analyses.headmap import HeadMap


def export(headmap: HeadMap, to: str, path: str | Path) -> Path:
    """Write a map as one of `FORMATS`, atomically, and return the path.

    parquet and csv hold one row per cell (label, dims, value, low, high), npz and safetensors the arrays, json and html
    everything. ValueError for another format, or a map that the format cannot hold.
    """
    if to not in _WRITERS:
        near = difflib.get_close_matches(to.lower(), _WRITERS, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"There is no format {to!r}; a map can be exported to {', '.join(_WRITERS)}.{meant}")
    target = Path(path)
    _WRITERS[to](headmap, target)
    return target


def _parquet(headmap: HeadMap, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    frame = headmap.to_frame()
    # a column has one type: coords that mix numbers and text are all written as text
    columns = {
        name: [str(entry) for entry in column] if len({type(entry) for entry in column}) > 1 else column.to_numpy()
        for name, column in frame.items()
    }
    table = pyarrow.table({str(name): pyarrow.array(column) for name, column in columns.items()})
    about = {"name": headmap.name, "units": headmap.units, "sign": headmap.sign, "interval": _method(headmap)}
    about["provenance"] = json.dumps(headmap.described()["provenance"], sort_keys=True)
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(about), buffer)
    write_bytes(path, buffer.getvalue())


def _csv(headmap: HeadMap, path: Path) -> None:
    write_text(path, headmap.to_frame().to_csv(index=False, lineterminator="\n"))


def _json(headmap: HeadMap, path: Path) -> None:
    from headlens.analyses.headmap_json import to_json

    write_text(path, to_json(headmap))


def _npz(headmap: HeadMap, path: Path) -> None:
    arrays = {"values": headmap.values}
    if headmap.samples is not None and headmap.scale is not None:
        arrays |= {"samples": headmap.samples, "scale": headmap.scale}
        if len(headmap.samples) > 1:
            interval = headmap.ci()
            arrays |= {"low": interval.low, "high": interval.high}
    about = {**headmap.described(), "interval": _method(headmap)}
    # text of a fixed width is an array like any other, so the file loads with allow_pickle=False
    arrays["description"] = np.array(json.dumps(about, sort_keys=True))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _html(headmap: HeadMap, path: Path) -> None:
    from headlens.report import write_report

    write_report(headmap, path)


def _method(headmap: HeadMap) -> str:
    """What low and high are, in words; nothing where there are none."""
    if headmap.samples is None or len(headmap.samples) < 2:
        return ""
    interval = headmap.ci()
    return f"{interval.level:.0%}, {interval.method}"


def _safetensors(headmap: HeadMap, path: Path) -> None:
    headmap.save(path)


_WRITERS: dict[str, Callable[[HeadMap, Path], None]] = {
    "parquet": _parquet,
    "csv": _csv,
    "json": _json,
    "npz": _npz,
    "html": _html,
    "safetensors": _safetensors,
}
FORMATS = tuple(_WRITERS)
