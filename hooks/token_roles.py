"""What each position of a prompt is: text, a special token, padding, or the patch of a picture at a row and column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from headlens.hooks.picture_layouts import PictureLayout, patch_grid, picture_layouts
from headlens.hooks.tiled_prompts import tiled_layouts

ROLES = ("text", "image", "special", "padding")
TEXT, IMAGE, SPECIAL, PADDING = range(4)
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_AROUND = ("vision_start_token_id", "vision_end_token_id", "boi_token_index", "eoi_token_index")


@dataclass(frozen=True)
class Grid:
    """One grid of a prompt: the cells of picture `image`, whose first image token is at position `start`.

    Level 0 is the whole picture, level 1 the same picture in finer tiles, for architectures that have both.
    """

    image: int
    rows: int
    columns: int
    start: int
    level: int = 0


@dataclass(frozen=True, eq=False)
class TokenRoles:
    """Of each position of each prompt, padding counted: the index in ROLES of what it is, the picture of its prompt
    that it belongs to, and its level, row and column there; -1 where there is none. Some image tokens have no cell:
    newlines between rows, and the queries of a Q-Former."""

    roles: Int[Tensor, "batch pos"]
    image: Int[Tensor, "batch pos"]
    level: Int[Tensor, "batch pos"]
    row: Int[Tensor, "batch pos"]
    column: Int[Tensor, "batch pos"]
    grids: tuple[tuple[Grid, ...], ...]

    def of(self, role: str) -> Bool[Tensor, "batch pos"]:
        """Which positions are "text", "image", "special" or "padding"."""
        if role not in ROLES:
            raise ValueError(f"Unknown role {role!r}; the roles are {', '.join(ROLES)}.")
        return self.roles == ROLES.index(role)

    def patches(self, prompt: int, image: int = 0, level: int = 0) -> Int[Tensor, "row column"]:
        """The positions of a picture's cells; ValueError for a picture that is not there or has no cells."""
        grid = next((g for g in self.grids[prompt] if (g.image, g.level) == (image, level)), None)
        if grid is None:
            known = ", ".join(f"{g.image} (level {g.level})" for g in self.grids[prompt]) or "none"
            raise ValueError(
                f"Prompt {prompt} has no picture {image} with cells at level {level}; with cells it has {known}."
            )
        at = ((self.image[prompt] == image) & (self.level[prompt] == level)).nonzero()[:, 0]
        positions = torch.full((grid.rows, grid.columns), -1, device=at.device)
        positions[self.row[prompt, at], self.column[prompt, at]] = at
        return positions

    def extended(self, n: int) -> "TokenRoles":
        """The same prompts with `n` generated tokens behind each, which are text."""
        longer = {name: pad(getattr(self, name), (0, n), value=-1) for name in ("image", "level", "row", "column")}
        return replace(self, roles=pad(self.roles, (0, n), value=TEXT), **longer)


def token_roles(config: Any, inputs: Mapping[str, Any], special: Sequence[int] = ()) -> TokenRoles:
    """The roles of the positions of `inputs`, which are a processor's output for whole prompts (or the like).

    `config` is the model's. It names the tokens around a picture and at the ends of a text; `special` are further ones,
    such as a tokenizer's `all_special_ids`. Positions are absolute, and so the same in a cached decode.

    ValueError: for inputs without token ids, for videos, and where the image tokens are not as many as the pictures
    have patches.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise ValueError("token_roles needs input_ids [batch, pos], the ids of whole prompts.")
    image_token = _named(config, "image_token_id", "image_token_index")
    if inputs.get("pixel_values_videos") is not None:
        raise ValueError("token_roles lays out still pictures, and pixel_values_videos was given.")
    padding = (mask == 0) if isinstance(mask, Tensor) and mask.shape == ids.shape else torch.zeros_like(ids).bool()
    image = (ids == (-1 if image_token is None else image_token)) & ~padding
    marks = torch.tensor(sorted(_marks(config) | {*special}), dtype=ids.dtype, device=ids.device)
    roles = torch.where(torch.isin(ids, marks), SPECIAL, TEXT).where(~image, IMAGE).where(~padding, PADDING)
    of_pictures = torch.full((4, *ids.shape), -1, device=ids.device)
    grids = []
    for prompt, layouts in enumerate(_by_prompt(config, inputs, ids, image)):
        at, own = image[prompt].nonzero()[:, 0], []
        for number, layout in enumerate(layouts):
            places, at = at[: len(layout)], at[len(layout) :]
            of_pictures[0, prompt, places] = number
            of_pictures[1:, prompt, places] = layout.cells.T.to(ids.device)
            own += _grids(number, layout, places)
        grids.append(tuple(own))
    index, level, row, column = of_pictures
    return TokenRoles(roles, index, level, row, column, tuple(grids))


def _by_prompt(config: Any, inputs: Mapping[str, Any], ids: Tensor, image: Tensor) -> list[list[PictureLayout]]:
    """Each prompt's pictures, which have as many tokens as it has image tokens."""
    grid, shrunk = patch_grid(config), getattr(config, "scale_factor", None)
    if shrunk is not None and grid is not None:
        return [tiled_layouts(*one, grid[0] * grid[1] // shrunk**2) for one in zip(ids, image, strict=True)]
    runs = [[len([*own]) for is_image, own in groupby(row) if is_image] for row in image.tolist()]
    left, found = picture_layouts(config, inputs, runs) if image.any() else [], []
    for prompt, own in enumerate(runs):
        missing, layouts = sum(own), []
        while missing > 0 and left:
            layouts.append(left.pop(0))
            missing -= len(layouts[-1])
        if missing:
            raise ValueError(
                f"Prompt {prompt} has {sum(own)} image tokens, and the pictures that are left have "
                f"{[len(each) for each in layouts]}; give whole prompts and the pictures' sizes as the model's "
                "processor makes them."
            )
        found.append(layouts)
    if left:
        raise ValueError(f"{len(left)} pictures more were given than the prompts have image tokens for.")
    return found


def _grids(image: int, layout: PictureLayout, places: Tensor) -> list[Grid]:
    """The whole picture first, whichever comes first in the prompt."""
    grids = []
    for level in (0, 1):
        cells = layout.cells[layout.cells[:, 0] == level]
        if len(cells):
            start = int(places[int((layout.cells[:, 0] == level).int().argmax())])
            grids.append(Grid(image, int(cells[:, 1].max()) + 1, int(cells[:, 2].max()) + 1, start, level))
    return grids


def _named(config: Any, *names: str) -> Any:
    return next((found for name in names if (found := getattr(config, name, None)) is not None), None)


def _marks(config: Any) -> set[int]:
    """Ids that a configuration, or that of its text, names as no words."""
    text = getattr(config, "text_config", None) or config
    given = [getattr(config, name, None) for name in _AROUND] + [getattr(text, name, None) for name in _ENDS]
    several = [one for each in given for one in (each if isinstance(each, list | tuple) else [each])]
    return {one for one in several if isinstance(one, int)}
