"""Idefics3 and SmolVLM: how a picture was cut into tiles, read off the tokens between them.

Its processor writes `<fake> <row_1_col_1> image ... <fake> <row_1_col_2> image ... newline` for each row of tiles, and
then `<fake> <global> image ... <fake>` for the whole picture made small; one that was not cut has only the latter.
"""

from math import isqrt

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headlens.hooks.picture_layouts import PictureLayout


def tiled_layouts(ids: Int[Tensor, " pos"], image: Bool[Tensor, " pos"], n_tokens: int) -> list[PictureLayout]:
    """The pictures of one prompt; `n_tokens` is how many image tokens a tile has. ValueError where the tokens between
    tiles are not the processor's."""
    starts = _starts(image, n_tokens)
    if not starts:
        return []
    end = starts[-1] + n_tokens
    fake, whole = int(ids[end]) if end < len(ids) else -1, int(ids[starts[-1] - 1])
    if starts[0] < 2 or any(int(ids[start - 2]) != fake for start in starts):
        raise ValueError(_unusual())
    layouts, tiles = [], []
    for start in starts:
        tiles.append(start)
        if int(ids[start - 1]) == whole:
            layouts.append(_layout(tiles, n_tokens))
            tiles = []
    return layouts


def _starts(image: Tensor, n_tokens: int) -> list[int]:
    """Where each tile's tokens begin."""
    at = image.nonzero()[:, 0].tolist()
    starts = at[::n_tokens]
    if len(at) % n_tokens or any(not bool(image[start : start + n_tokens].all()) for start in starts):
        raise ValueError(_unusual())
    if any(bool(image[start - 1]) for start in starts[1:]):
        raise ValueError(_unusual())
    return starts


def _layout(starts: list[int], n_tokens: int) -> PictureLayout:
    """Tiles row by row, and the whole picture last."""
    *tiles, _ = starts
    rows: list[int] = []
    for before, start in zip([None, *tiles], tiles, strict=False):
        # two tokens between tiles of a row, and a newline more behind the row
        if before is not None and start - before == n_tokens + 2:
            rows[-1] += 1
        else:
            rows.append(1)
    if len({*rows}) > 1:
        raise ValueError(_unusual())
    side, columns = isqrt(n_tokens), rows[0] if rows else 0
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    cells = [
        torch.stack([torch.ones_like(row), row + side * (at // columns), column + side * (at % columns)], -1)
        for at in range(len(tiles))
    ]
    cells.append(torch.stack([torch.zeros_like(row), row, column], -1))
    return PictureLayout(torch.cat([each.reshape(-1, 3) for each in cells]))


def _unusual() -> str:
    return (
        "The tokens around the image tokens are not those of Idefics3's processor, so the tiles of a picture cannot be "
        "told; give inputs as the processor makes them."
    )
