"""Long work that survives: each finished chunk is one file, and a run folder holds one piece of work only.

Layout: `run.json` says what the work is, `chunks/KEY.safetensors` are its finished parts, `headmap.safetensors` is what
they came to. kill -9 at any moment loses at most the chunk in flight.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from headlens.analyses.arrays import load_arrays, save_arrays
from headlens.analyses.atomic import remove_leftovers, write_text

RUN_FILE = "run.json"
RESULT_FILE = "headmap.safetensors"
LOCK_FILE = ".lock"
_MOST_SHOWN = 40


@dataclass(frozen=True)
class Checkpoint:
    """The chunks of one piece of work, in a folder that this process alone is using."""

    folder: Path
    identity: Mapping[str, Any]

    @classmethod
    @contextmanager
    def open(cls, folder: Path, identity: Mapping[str, Any], resume: bool = True) -> "Iterator[Checkpoint]":
        """Use a run folder, made if need be. `identity` is all that decides the chunks' contents, as plain values.

        With `resume` finished chunks are used, and a folder of other work is a ValueError that says what differs;
        without, its chunks are removed first. A folder that another process is using is a ValueError.
        """
        plain = json.loads(json.dumps(dict(identity)))
        chunks = folder / "chunks"
        chunks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"The run folder {folder} is in use by another process; wait for it, or give another folder."
            ) from error
        try:
            for used in (folder, chunks):
                remove_leftovers(used)
            if resume:
                _refuse_other_work(folder, plain)
            else:
                (folder / RUN_FILE).unlink(missing_ok=True)
                shutil.rmtree(chunks)
                chunks.mkdir()
            write_text(folder / RUN_FILE, json.dumps(plain, indent=2, sort_keys=True) + "\n")
            yield cls(folder, plain)
        finally:
            lock.release()

    def kept(self, key: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The chunk of this key: the finished one, or else computed and kept."""
        chunk = self.load(key)
        if chunk is None:
            chunk = compute()
            self.save(key, chunk)
        return chunk

    def load(self, key: str) -> dict[str, np.ndarray] | None:
        """A finished chunk, or None. A damaged one is set aside and a ValueError says so; all others stay."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            arrays, about = load_arrays(path)
            if about != {"chunk": key}:
                raise ValueError(f"{path} holds another chunk, {about.get('chunk')!r}.")
        except ValueError as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            raise ValueError(
                f"{error} It was set aside as {aside.name}; run the same command again to compute it anew. "
                "All other finished chunks are kept."
            ) from error
        return arrays

    def save(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished chunk."""
        save_arrays(self._path(key), arrays, {"chunk": key})

    def _path(self, key: str) -> Path:
        return self.folder / "chunks" / f"{key}.safetensors"


@dataclass(frozen=True)
class NotKept:
    """In place of a Checkpoint where nothing goes to disk."""

    def kept(self, key: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """Compute the chunk."""
        return compute()


def _refuse_other_work(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / RUN_FILE
    if not path.exists():
        if any((folder / "chunks").iterdir()):
            raise ValueError(
                f"{folder} holds finished chunks but no {RUN_FILE} that says of what; "
                "give another folder, or start afresh (--fresh, resume=False)."
            )
        return
    try:
        kept = json.loads(path.read_text())
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(
            f"{path} is damaged, so what the folder holds is unknown; give another folder, or start afresh "
            "(--fresh, resume=False)."
        )
    differing = _differences(kept, identity)
    if differing:
        raise ValueError(
            f"{folder} holds a run of something else ({'; '.join(differing)}); "
            "give another folder, or start afresh (--fresh, resume=False)."
        )


def _differences(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two descriptions, entry by entry, in few words each."""
    found: list[str] = []
    for key in sorted({*there, *now}):
        old, new = there.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {_shortened(old)} there, {_shortened(new)} now")
    return found


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
