"""What each tiny vision-language model is run on, laid out as its processor does: from pictures to token ids, tiles,
flattened patches and sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from tiny_vlms import BOS, END, IMAGE_TOKEN, PAD, PATCH, PINPOINTS, SIDE, START

FAKE, GLOBAL, NEWLINE, FIRST_TILE = 91, 92, 93, 70  # Idefics3's tokens around a tile; one for each row and column
SIZES = {"llava_next": (24, 32), "llava_onevision": (32, 32), "qwen2_vl": (16, 24), "qwen2_5_vl": (16, 32)}
SIZES |= {"qwen3_vl": (24, 16), "idefics3": (16, 32)}
ANYRES, QWEN = ("llava_next", "llava_onevision"), ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True, eq=False)
class Laid:
    """One picture: the token ids that stand for it, and what the vision tower gets."""

    ids: list[int]
    pixels: Tensor
    beside: Any = None  # its size, or its grid


def picture(name: str, seed: int, size: tuple[int, int] | None = None) -> Tensor:
    """A random picture [3, height, width] of a size that the model takes without resizing."""
    height, width = size or SIZES.get(name, (SIDE, SIDE))
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def inputs_of(name: str, prompts: Sequence[Sequence[Tensor]], text: int = 6, seed: int = 1) -> dict[str, Any]:
    """Inputs for prompts with these pictures each, padded in front to one length. `text` words follow them, and two
    stand before each. The words of a prompt are drawn by `seed` plus its place."""
    rows, laid, asked = [], [], []
    for at, pictures in enumerate(prompts):
        words = torch.randint(
            4, 60, (text + 2 * len(pictures) + 4,), generator=torch.Generator().manual_seed(seed + at)
        )
        asked.append(words[:4])
        row, words = [BOS], words[4:].tolist()
        for each in pictures:
            laid.append(lay_out(name, each, alone=len(pictures) == 1))
            row, words = [*row, *words[:2], *laid[-1].ids], words[2:]
        rows.append(row + words)
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    image = (ids == IMAGE_TOKEN).long()
    if name in QWEN:
        inputs["mm_token_type_ids"] = image
    if name == "gemma3":
        inputs["token_type_ids"] = image
    if name == "paligemma":
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if name == "instructblip":
        inputs["qformer_input_ids"] = torch.stack(asked)
        inputs["qformer_attention_mask"] = torch.ones(len(rows), 4, dtype=torch.long)
    return {**inputs, **_pixels(name, laid, [len(pictures) for pictures in prompts])} if laid else inputs


def inputs_for_vlm(name: str, pictures: Sequence[int] = (1,), text: int = 6, seed: int = 1) -> dict[str, Any]:
    """Inputs with this many random pictures in each prompt of the batch. The prompt at place i, alone, is
    `inputs_for_vlm(name, pictures[i : i + 1], text, seed + i)`."""
    prompts = [[picture(name, 10 * (seed + at) + one) for one in range(n)] for at, n in enumerate(pictures)]
    return inputs_of(name, prompts, text, seed)


def continued(name: str, inputs: dict[str, Any], new: Tensor) -> dict[str, Any]:
    """The inputs with tokens [batch, n] behind the prompts, which are text and see what is before them."""
    kinds = {"attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": int(name == "paligemma")}
    more = {key: torch.full_like(new, value) for key, value in kinds.items() if key in inputs} | {"input_ids": new}
    return {**inputs, **{key: torch.cat([inputs[key], value], 1) for key, value in more.items()}}


def lay_out(name: str, image: Tensor, alone: bool = True) -> Laid:
    """A picture as the named model's processor would hand it over. OneVision cuts tiles only of one that is alone."""
    if name == "llava_onevision" and not alone:
        return Laid([IMAGE_TOKEN] * ((SIDE // PATCH) ** 2 + 1), _small(image)[None], [*image.shape[1:]])
    if name in ANYRES:
        return _anyres(name, image)
    if name in QWEN:
        return _flattened(image)
    if name == "idefics3":
        return _tiled(image)
    if name == "gemma3":
        return Laid([START, *[IMAGE_TOKEN] * 4, END], image)
    return Laid([IMAGE_TOKEN] * (5 if name == "instructblip" else (SIDE // PATCH) ** 2), image)


def _pixels(name: str, laid: Sequence[Laid], counts: Sequence[int]) -> dict[str, Any]:
    if name in QWEN:
        return {
            "pixel_values": torch.cat([each.pixels for each in laid]),
            "image_grid_thw": torch.tensor([each.beside for each in laid]),
        }
    if name in ANYRES:
        most = max(len(each.pixels) for each in laid)
        tiles = torch.stack([pad(each.pixels, (0, 0) * 3 + (0, most - len(each.pixels))) for each in laid])
        inputs = {"pixel_values": tiles, "image_sizes": torch.tensor([each.beside for each in laid])}
        return inputs | ({"batch_num_images": torch.tensor(counts)} if name == "llava_onevision" else {})
    if name == "idefics3":
        rest = [each.pixels for each in laid]
        flat = [torch.cat([rest.pop(0) for _ in range(count)]) for count in counts]
        most = max(map(len, flat))
        return {"pixel_values": torch.stack([pad(each, (0, 0) * 3 + (0, most - len(each))) for each in flat])}
    return {"pixel_values": torch.stack([each.pixels for each in laid])}


def _tiles(image: Tensor) -> Tensor:
    """[tile, 3, side, side], row by row."""
    rows, columns = image.shape[1] // SIDE, image.shape[2] // SIDE
    cut = image.reshape(3, rows, SIDE, columns, SIDE).permute(1, 3, 0, 2, 4)
    return cut.reshape(rows * columns, 3, SIDE, SIDE)


def _small(image: Tensor) -> Tensor:
    return interpolate(image[None], (SIDE, SIDE), mode="area")[0]


def _anyres(name: str, image: Tensor) -> Laid:
    """The whole picture made small, then the tiles of it padded to the best resolution, without the padding's tokens
    and with a newline behind each row. Sizes here fit a resolution in one direction."""
    height, width = image.shape[1:]
    best = min((p for p in PINPOINTS if p[0] >= height and p[1] >= width), key=lambda p: p[0] * p[1])
    above, left = (best[0] - height) // 2, (best[1] - width) // 2
    padded = pad(image, (left, best[1] - width - left, above, best[0] - height - above))
    rows, columns = best[0] // PATCH, best[1] // PATCH
    rows, columns = rows - 2 * (above // PATCH), columns - 2 * (left // PATCH)
    if name == "llava_onevision" and (ratio := (rows * columns / (2 * (SIDE // PATCH) ** 2)) ** 0.5) > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    count = (SIDE // PATCH) ** 2 + rows * (columns + 1)
    return Laid([IMAGE_TOKEN] * count, torch.cat([_small(image)[None], _tiles(padded)]), [height, width])


def _flattened(image: Tensor) -> Laid:
    """Patches in the order in which they are merged, 2 x 2; a still picture is two equal frames."""
    rows, columns = image.shape[1] // PATCH, image.shape[2] // PATCH
    cut = image.reshape(3, rows // 2, 2, PATCH, columns // 2, 2, PATCH).permute(1, 4, 2, 5, 0, 3, 6)
    frames = cut.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1)
    ids = [START, *[IMAGE_TOKEN] * (rows * columns // 4), END]
    return Laid(ids, frames.reshape(rows * columns, -1), [1, rows, columns])


def _tiled(image: Tensor) -> Laid:
    """Idefics3: tiles row by row, each behind a token of its place, and the whole picture made small last."""
    rows, columns = image.shape[1] // SIDE, image.shape[2] // SIDE
    tokens = [IMAGE_TOKEN] * (SIDE // PATCH // 2) ** 2
    if rows * columns == 1:
        return Laid([FAKE, GLOBAL, *tokens, FAKE], image[None])
    ids = []
    for row in range(rows):
        for column in range(columns):
            ids += [FAKE, FIRST_TILE + 4 * row + column, *tokens]
        ids += [NEWLINE]
    return Laid([*ids, NEWLINE, FAKE, GLOBAL, *tokens, FAKE], torch.cat([_tiles(image), _small(image)[None]]))
