"""Pictures of scenes: small coloured shapes on a noisy grey ground, and how a model takes them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headlens.analyses.vision.scenes.scenes import GRID, NOUNS, Scene

CELL = 8
SIZE = GRID * CELL
GROUND = 128
NOISE = 24.0
_COLOURS = np.array([(225, 40, 40), (40, 190, 60), (50, 80, 235), (235, 205, 30)], dtype=np.float64)
_SHAPES = {
    "square": "........ .######. .######. .######. .######. .######. .######. ........",
    "ring": "..####.. .######. ##....## ##....## ##....## ##....## .######. ..####..",
    "triangle": "........ ...##... ...##... ..####.. ..####.. .######. ######## ########",
    "cross": "...##... ...##... ...##... ######## ######## ...##... ...##... ...##...",
    "bars": "######## ######## ........ ........ ######## ######## ........ ########",
    "stripe": "##....## ###..... .###.... ..###... ...###.. ....###. .....### ##....##",
}


def _masks() -> np.ndarray:
    return np.array([[[mark == "#" for mark in row] for row in text.split()] for text in _SHAPES.values()])


def looks(noun: str) -> tuple[str, tuple[int, int, int]]:
    """The shape and the colour (red, green, blue) that a noun is drawn with; no two nouns share both."""
    at = _index(noun)
    red, green, blue = _COLOURS[at // len(_SHAPES)]
    return [*_SHAPES][at % len(_SHAPES)], (int(red), int(green), int(blue))


def draw_picture(scene: Scene) -> UInt8[np.ndarray, "row column 3"]:
    """The picture of a scene, 48 by 48 pixels: an object fills the 8 by 8 pixels of its cell, under noise.

    Contrast 1 is the full colour, 0 would be the ground. The noise (deviation 24 of 255 in each channel) is that of
    the scene's own draw, so that a scene has one picture.
    """
    masks = _masks()
    canvas = np.full((SIZE, SIZE, 3), float(GROUND))
    for one in scene.placed:
        at = _index(one.noun)
        row, column = divmod(one.cell, GRID)
        cell = canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        cell[masks[at % len(masks)]] += one.contrast * (_COLOURS[at // len(masks)] - GROUND)
    canvas += NOISE * np.random.default_rng([*scene.draw, 1]).standard_normal(canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def as_pixels(pictures: Sequence[UInt8[np.ndarray, "row column 3"]]) -> Float[Tensor, "picture 3 row column"]:
    """Pictures as the model takes them: channels first, from -1 (0) to 1 (255).

    That is a Hugging Face image processor with rescale_factor 1 / 255, image_mean and image_std 0.5, and no resizing.
    """
    stacked = torch.from_numpy(np.stack([*pictures])).permute(0, 3, 1, 2)
    return ((stacked.float() / 255 - 0.5) / 0.5).contiguous()


def _index(noun: str) -> int:
    if noun not in NOUNS:
        raise ValueError(f"There is no drawing of {noun!r}; the nouns are {', '.join(NOUNS)}.")
    return NOUNS.index(noun)
