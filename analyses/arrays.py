"""Named arrays in one checked file: safetensors (no pickle) with a digest, since the format itself has none."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headlens.analyses.atomic import write_bytes

_KEY = "headlens"


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write arrays and a JSON-able description; the same contents make the same bytes. OSError names the path."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    text = json.dumps(dict(about), sort_keys=True)
    # one key only: safetensors writes the entries of its metadata in no fixed order
    metadata = {_KEY: json.dumps({"about": text, "sha256": _digest(contiguous, text)})}
    write_bytes(path, save(contiguous, metadata))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote. ValueError says what is wrong with a file that is damaged or of another kind."""
    data = path.read_bytes()
    try:
        arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        kept = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        about, digest = kept["about"], kept["sha256"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or was not written by headlens ({error}).") from error
    if _digest(arrays, about) != digest:
        raise ValueError(f"{path} is damaged: its contents are not those that were written.")
    return arrays, json.loads(about)


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
