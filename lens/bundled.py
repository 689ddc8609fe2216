"""Models small enough to come with headlens itself, in data/."""

from importlib.resources import files
from pathlib import Path

BUNDLED = ("tiny-vlm",)


def bundled_folder(name: str) -> Path | None:
    """The folder of a model that comes with headlens, or None for any other name."""
    return Path(str(files("headlens.data").joinpath(name))) if name in BUNDLED else None
