"""A map of scores made into a closer look at a picture: the best regions are kept, cropped, and magnified (CARVE)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage


@dataclass(frozen=True, eq=False)
class ContrastCrop:
    """`picture` is the closer look, `kept` the pixels of the original that are in it, `box` what was cut out: top,
    left, and the row and column behind it."""

    picture: UInt8[np.ndarray, "row column 3"]
    kept: Bool[np.ndarray, "_row _column"]
    box: tuple[int, int, int, int]


def contrast_crop(
    picture: UInt8[np.ndarray, "row column 3"],
    scores: Float[np.ndarray, "grid_row grid_column"],
    *,
    share: float = 0.4,
    regions: int = 3,
    ground: int = 0,
) -> ContrastCrop:
    """Keep what scores most, and look closer (2509.06461).

    1. Scores of the grid's cells become those of the pixels that they cover.
    2. Pixels at or above the quantile 1 - share are kept: this share of all, and more where scores tie.
    3. Of their connected regions (pixels touch by an edge, not by a corner) those with the largest summed scores stay,
       at most `regions`.
    4. All else is painted over, the smallest box around what is left is cut out, and enlarged (bicubic, its shape
       unchanged) as far as the original's size allows.

    The paper's best are a share of 0.2 to 0.6 and 2 or 3 regions. `regions` is a maximum as in the paper; in its code
    max(3, 20% of all) makes it a minimum. The code also asks again with both pictures, the original first, and the
    paper's algorithm with the new one alone. Scores should not be negative, since regions are compared by sums.

    Args:
        picture: what was seen.
        scores: one for each cell, such as `ContrastMap.scores` in the rows and columns of the picture's patches.
        share: of the pixels that are kept, above 0 and up to 1.
        regions: the most that stay.
        ground: the grey, 0 to 255, that the rest is painted with; the paper says nothing of it.

    Raises:
        ValueError: for a picture or scores of another shape, scores that are not finite, a share, number of regions or
            grey out of range.
    """
    _check(picture, scores, share, regions, ground)
    height, width = picture.shape[:2]
    rows, columns = (np.arange(size) * cells // size for size, cells in zip((height, width), scores.shape, strict=True))
    pixels = scores[rows[:, None], columns].astype(np.float64)
    found: Any = ndimage.label(pixels >= np.quantile(pixels, 1 - share, method="higher"))
    labels, count = found
    sums = ndimage.sum(pixels, labels, np.arange(1, count + 1))
    best = np.argsort(-sums, kind="stable")[:regions] + 1
    kept = np.isin(labels, best)
    at_rows, at_columns = (np.flatnonzero(kept.any(axis)) for axis in (1, 0))
    top, left, bottom, right = int(at_rows[0]), int(at_columns[0]), int(at_rows[-1]) + 1, int(at_columns[-1]) + 1
    cut = np.where(kept[..., None], picture, np.uint8(ground))[top:bottom, left:right]
    factor = min(height / (bottom - top), width / (right - left))
    size = round((right - left) * factor), round((bottom - top) * factor)
    closer = Image.fromarray(cut).resize(size, Image.Resampling.BICUBIC)
    return ContrastCrop(np.asarray(closer, dtype=np.uint8), kept, (top, left, bottom, right))


def _check(picture: np.ndarray, scores: np.ndarray, share: float, regions: int, ground: int) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(f"A picture of {picture.dtype} {picture.shape} was given; expected uint8 [row, column, 3].")
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"Scores of shape {scores.shape} were given; expected finite numbers [row, column] of a grid.")
    if scores.shape[0] > picture.shape[0] or scores.shape[1] > picture.shape[1]:
        raise ValueError(f"A grid of {scores.shape} is finer than the picture's pixels, {picture.shape[:2]}.")
    if not 0 < share <= 1 or regions < 1 or not 0 <= ground <= 255:
        raise ValueError(
            f"share={share}, regions={regions}, ground={ground} were given; expected a share above 0 and up to 1, at "
            "least 1 region, and a grey from 0 to 255."
        )
