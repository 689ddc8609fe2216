"""The cache folder: where converted models live, and how a damaged one is noticed.

Each model is one folder whose `manifest.json` lists the size and the SHA-256 of every other file. A folder
appears by renaming a finished temporary folder, so it is either whole or absent.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class DamagedCache(ValueError):
    """A cached model's files are not what its manifest says."""


def cache_folder() -> Path:
    """Return the cache folder: HEADLENS_CACHE, else headlens below XDG_CACHE_HOME, else ~/.cache/headlens."""
    if chosen := os.environ.get("HEADLENS_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headlens"


def model_folder(name: str) -> Path:
    """Return where the catalogue model `name` is, or would be, on disk."""
    return cache_folder() / "models" / name


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, origin: dict[str, Any]) -> None:
    """Record every file of `folder` in its manifest, beside `origin`: what it was made from."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({**origin, "files": files}, indent=2) + "\n")


def check(folder: Path, repair: str) -> None:
    """Check the size and the contents of every file; a DamagedCache names the first that is wrong.

    `repair` is the command that makes the folder anew; the message ends with it. Half a gigabyte takes about
    half a second where the processor has SHA instructions.
    """
    for name, listed in _listed_files(folder, repair).items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            fault = "is missing"
        elif size != listed["bytes"]:
            fault = f"has {size:,} bytes instead of {listed['bytes']:,}"
        elif sha256(path) != listed["sha256"]:
            fault = "does not have the contents it was written with"
        else:
            continue
        raise DamagedCache(f"The cached model is damaged: {path} {fault}. Run `{repair}`.")


def _listed_files(folder: Path, repair: str) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads((folder / MANIFEST).read_text())["files"])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise DamagedCache(
            f"The cached model is damaged: {folder / MANIFEST} is missing or unreadable. Run `{repair}`."
        ) from error
