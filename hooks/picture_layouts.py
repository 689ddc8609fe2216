"""How each architecture writes a picture into image tokens: which cell of the picture's grid each token stands for.

Read off transformers' own `get_image_features`, and tested against the pictures themselves. A picture is written row by
row; LLaVA-NeXT, LLaVA-OneVision and Idefics3 write it twice, as a whole made small (level 0) and in tiles (level 1).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution


@dataclass(frozen=True, eq=False)
class PictureLayout:
    """The image tokens of one picture in their order, each with its level, row and column; -1 where it has no cell."""

    cells: Int[Tensor, "token 3"]

    def __len__(self) -> int:
        return len(self.cells)


def picture_layouts(config: Any, inputs: Mapping[str, Any], runs: Sequence[Sequence[int]]) -> list[PictureLayout]:
    """The pictures in the order of their tokens, for every architecture whose tokens can be told from `inputs` alone.

    `runs` are the lengths of each prompt's stretches of image tokens. Pictures of which only their number of tokens is
    known (a Q-Former's queries, resamplers) are without cells.
    """
    lengths = [length for own in runs for length in own]
    vision, total = getattr(config, "vision_config", None), sum(lengths)
    if "image_grid_thw" in inputs:
        return [_merged(vision, grid) for grid in _rows_of(inputs["image_grid_thw"])]
    if getattr(config, "image_grid_pinpoints", None) is not None:
        return _anyres(config, inputs)
    if inputs.get("image_sizes") is not None:
        raise ValueError(
            f"{type(config).__name__} has pictures of any size, and how it lays them out is not known here; give "
            "positions of your own."
        )
    if getattr(config, "num_query_tokens", None) is not None:
        return _repeated(_no_cells(config.num_query_tokens), total)
    if getattr(config, "mm_tokens_per_image", None) is not None:
        side = isqrt(config.mm_tokens_per_image)
        return _repeated(_grid(side, side), total)
    return _of_one_size(config, inputs, lengths)


def _of_one_size(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[PictureLayout]:
    """One token for each patch, with the encoder's first token in front where the model takes it too (LLaVA's "full");
    and otherwise a picture for each stretch of tokens, without cells."""
    rows, columns = patch_grid(config) or (0, 0)
    pixels, plain = inputs.get("pixel_values"), _grid(rows, columns)
    whole = getattr(config, "vision_feature_select_strategy", None) == "full"
    for layout in [plain, *([torch.cat([_no_cells(1), plain])] if whole else [])]:
        if len(layout) and not any(length % len(layout) for length in lengths):
            count = sum(lengths) // len(layout)
            if not isinstance(pixels, Tensor) or pixels.ndim != 4 or len(pixels) == count:
                return [PictureLayout(layout)] * count
    return [PictureLayout(_no_cells(length)) for length in lengths]


def patch_grid(config: Any) -> tuple[int, int] | None:
    """Rows and columns of patches of an image encoder that takes pictures of one size."""
    vision = getattr(config, "vision_config", config)
    size, patch = (_pair(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
    return None if size is None or patch is None else (size[0] // patch[0], size[1] // patch[1])


def _pair(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    return (given, given) if isinstance(given, int) else (int(given[0]), int(given[-1]))


def _merged(vision: Any, grid: Sequence[int]) -> PictureLayout:
    """Qwen: every square of `spatial_merge_size` patches is one token."""
    frames, rows, columns = grid
    if frames != 1:
        raise ValueError(f"image_grid_thw has a picture of {frames} frames; token_roles lays out still pictures only.")
    side = vision.spatial_merge_size
    return PictureLayout(_grid(rows // side, columns // side))


def _anyres(config: Any, inputs: Mapping[str, Any]) -> list[PictureLayout]:
    """LLaVA-NeXT and LLaVA-OneVision: the whole picture, then its tiles side by side without the padding around it, and
    a newline behind each row, which is no cell."""
    sizes = _rows_of(inputs.get("image_sizes"))
    counts = inputs.get("batch_num_images")
    alone = [True] * len(sizes) if counts is None else [n == 1 for n in map(int, counts) for _ in range(n)]
    base = patch_grid(config)
    if base is None or base[0] != base[1]:
        raise ValueError(f"{type(config).__name__} has an image encoder without a square grid of patches.")
    whole = _grid(*base)
    layouts = []
    for size, tiled in zip(sizes, alone, strict=True):
        if not tiled:
            # OneVision does not cut one picture of several
            layouts.append(PictureLayout(torch.cat([whole, _no_cells(1)])))
            continue
        rows, columns = _unpadded(config, size, base[0])
        cells = torch.cat([_grid(rows, columns, level=1).view(rows, columns, 3), _no_cells(rows)[:, None]], 1)
        layouts.append(PictureLayout(torch.cat([whole, cells.flatten(0, 1)])))
    return layouts


def _unpadded(config: Any, size: Sequence[int], side: int) -> tuple[int, int]:
    """Rows and columns of a tiled picture [height, width] whose tiles have `side` patches in each direction."""
    (height, width), tile = size, config.vision_config.image_size
    best = select_best_resolution((height, width), config.image_grid_pinpoints)
    rows, columns = best[0] // tile * side, best[1] // tile * side
    # as it was padded, after it had been made to fit in one direction
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
    kind = getattr(config, "vision_aspect_ratio", None)
    if kind is not None and kind.startswith("anyres_max_"):
        ratio = (rows * columns / (int(kind.removeprefix("anyres_max_")) * side**2)) ** 0.5
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return rows, columns


def _repeated(cells: Tensor, total: int) -> list[PictureLayout]:
    if total % len(cells):
        raise ValueError(
            f"The prompts hold {total} image tokens, and each picture of this model has {len(cells)}; give whole "
            "prompts, as the model's processor makes them."
        )
    return [PictureLayout(cells)] * (total // len(cells))


def _grid(rows: int, columns: int, level: int = 0) -> Int[Tensor, "token 3"]:
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.full_like(row, level), row, column], -1).reshape(-1, 3)


def _no_cells(count: int) -> Int[Tensor, "token 3"]:
    return torch.full((count, 3), -1)


def _rows_of(given: Any) -> list[list[int]]:
    return [] if given is None else [[int(number) for number in row] for row in _iterated(given)]


def _iterated(given: Any) -> Iterable[Any]:
    return given.tolist() if isinstance(given, Tensor) else given
