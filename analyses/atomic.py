"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path

TEMPORARY = ".writing-"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it; whoever looks sees the old contents or the new.

    OSError (a full disk, a folder that cannot be written) names the path, and the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner may read
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, text.encode())


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote; nobody else may be writing."""
    for temporary in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _umask() -> int:
    # the umask can only be read by setting it
    mask = os.umask(0)
    os.umask(mask)
    return mask
