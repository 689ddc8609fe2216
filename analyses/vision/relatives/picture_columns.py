"""Where each picture of a prompt stands among its tokens."""

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor

from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.hooks.model import Model
from headlens.hooks.token_roles import token_roles


def picture_columns(model: Model, inputs: Mapping[str, Tensor]) -> tuple[Int[Tensor, " _patch"], ...]:
    """The absolute positions of each picture's image tokens, in order, for a batch of 1: all of them, in models that
    have a picture twice, or a token at the end of each row.

    ValueError for a model that names no image token, and for what `token_roles` refuses.
    """
    image_tokens(model)
    owner = token_roles(model.hf.config, inputs).image[0].cpu()
    return tuple((owner == picture).nonzero()[:, 0] for picture in range(int(owner.max()) + 1))


def picture_cells(model: Model, inputs: Mapping[str, Tensor]) -> tuple[Int[Tensor, "_row _column"], ...]:
    """The absolute positions of the cells of each picture that has some (as a whole, not in finer tiles), -1 where
    there is none."""
    roles = token_roles(model.hf.config, inputs)
    return tuple(roles.patches(0, grid.image).cpu() for grid in roles.grids[0] if grid.level == 0)
