"""Models small enough to come with headlens itself, in data/."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class BundledModel:
    """One of them. `heads` counts query heads per layer of its text, `kv_heads` the key and value heads they share."""

    name: str
    description: str
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    origin: str


BUNDLED = {
    model.name: model
    for model in (
        BundledModel(
            name="tiny-vlm",
            description="a vision-language model (LLaVA architecture) of small drawn scenes, 6 x 6 patches",
            parameters=997_504,
            layers=4,
            heads=8,
            kv_heads=8,
            origin="trained by headlens on scenes with a planted prior",
        ),
    )
}


def bundled_folder(name: str) -> Path | None:
    """The folder of a model that comes with headlens, or None for any other name."""
    return Path(str(files("headlens.data").joinpath(name))) if name in BUNDLED else None
