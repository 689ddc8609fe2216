"""Contrast of attention to a picture under a question and under a general instruction (CARVE, 2509.06461).

    contrast_l,t = A^Q_l,t / (max(A^G_l,t, floor * mean of A^G_l,t) + lam)
    scores = sum over t of w_t * sum over l of contrast_l,t ,  w_t = t, from 1

A_l,t is the attention of the newest row to each image token when token t of the answer is said, mean over heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from headlens.analyses.vision.relatives.answer_rows import answer_rows, layers_at_depth
from headlens.analyses.vision.relatives.picture_columns import picture_cells, picture_columns
from headlens.analyses.vision.replies import replies
from headlens.analyses.vision.samples import Samples
from headlens.hooks.model import Model

# The paper's layers, 20 to 25 of LLaVA-1.5-7B's 32.
_FIRST, _LAST, _OF = 20, 25, 32


@dataclass(frozen=True, eq=False)
class ContrastMap:
    """One sample's maps over its image tokens, all pictures in a row. `scores` are the contrast, fused over layers and
    steps; `question` and `general` are the attention that it was made from, shares of a row's attention."""

    scores: Float32[np.ndarray, " patch"]
    question: Float32[np.ndarray, "layer step patch"]
    general: Float32[np.ndarray, "layer step patch"]
    columns: Int64[np.ndarray, " patch"]  # positions in the question's prompt
    cells: tuple[Int64[np.ndarray, "_row _column"], ...]  # the same of each picture's cells, -1 where there is none
    layers: tuple[int, ...]

    def of(self, picture: int = 0) -> Float32[np.ndarray, "_row _column"]:
        """The scores of one picture in its rows and columns, for `contrast_crop`; NaN where there is no token."""
        cells = self.cells[picture]
        return np.where(cells >= 0, self.scores[np.searchsorted(self.columns, cells)], np.float32(np.nan))


def contrast(
    question: Float[Tensor, "*map patch"], general: Float[Tensor, "*map patch"], floor: float = 0.1, lam: float = 0.0
) -> Float[Tensor, "*map patch"]:
    """Attention under a question over that under a general instruction, patch by patch: above 1 where the question
    draws more. The denominator is at least `floor` times its mean over the patches; 0 / 0 is 0."""
    if floor < 0 or lam < 0:
        raise ValueError(f"floor={floor} and lam={lam} were given; expected numbers from 0.")
    below = torch.maximum(general, floor * general.mean(-1, keepdim=True)) + lam
    return torch.where(question == 0, 0, question / below)


def fused(maps: Float[Tensor, "layer step patch"]) -> Float[Tensor, " patch"]:
    """The sum over layers, and over steps with the weights 1, 2, 3, ..., since later words know more of the answer."""
    weights = torch.arange(1, maps.shape[1] + 1, dtype=maps.dtype, device=maps.device)
    return torch.einsum("lsp,s->p", maps, weights)


def contrast_maps(
    model: Model,
    samples: Samples,
    general: Samples,
    *,
    layers: Sequence[int] | None = None,
    steps: int = 8,
    floor: float = 0.1,
    lam: float = 0.0,
    batch: int = 8,
) -> tuple[ContrastMap, ...]:
    """Where a question draws the model's eye beyond where a general instruction does (2509.06461).

    Both answers are generated greedily; as many steps count as the shorter one has tokens. `contrast_crop` makes a new
    picture of a map.

    Where this departs from the paper and its code: the paper's layers are 20 to 25 whatever the depth, and here the
    same share of the depth; its code has lam = 1e-8 and no floor, so that patches which the instruction hardly looks at
    (0.1% of the mean, say) outweigh all others, and here a tenth of the mean is the least that is divided by. Maps of
    the patches are fused as they are, where the paper first resizes them to the picture.

    Args:
        model: a vision-language model whose picture stands among its tokens.
        samples: questions with pictures.
        general: for each sample the same pictures with a general instruction ("describe the image").
        layers: which are summed; without, those of the paper at this model's depth.
        steps: the most tokens of each answer. With 1 the last token of the prompt is all that is read.
        floor: the least share of its mean that the general attention counts as, at each layer and step; 0 for none.
        lam: the paper's lambda, a share of attention, which is added to the general attention.
        batch: samples of equal length that run together.

    Returns:
        A map per sample; larger means that the question draws more to the patch. It has no upper bound, and says
        nothing of whether the answer is right.

    Raises:
        ValueError: for a model that names no image token, no samples, another number of general prompts than samples,
            a sample without pictures or with others than its general prompt, a layer that is not there, a negative
            floor or lam.
    """
    if len(general) != len(samples):
        raise ValueError(f"{len(general)} general prompts were given for {len(samples)} samples; give one for each.")
    if not len(samples) or floor < 0 or lam < 0:
        raise ValueError(
            f"{len(samples)} samples, floor={floor} and lam={lam} were given; expected samples, and numbers from 0."
        )
    chosen = layers_at_depth(model.n_layers, _FIRST, _LAST, _OF) if layers is None else tuple(layers)
    columns = [_columns(model, each) for each in (samples, general)]
    for at, (own, other) in enumerate(zip(*columns, strict=True)):
        if len(own) != len(other) or not len(own):
            raise ValueError(
                f"Sample {at} has {len(own)} image tokens and its general prompt {len(other)}; give both one picture, "
                "or the same ones."
            )
    read = []
    for each, own in zip((samples, general), columns, strict=True):
        said = [one.whole for one in replies(model, each, steps, batch=batch)]
        rows = answer_rows(model, each, said, chosen, batch=batch)
        read.append([row[..., at] for row, at in zip(rows, own, strict=True)])
    maps = []
    for inputs, asked, told, at in zip(samples.inputs, *read, columns[0], strict=True):
        count = min(asked.shape[1], told.shape[1])
        asked, told = asked[:, :count], told[:, :count]
        scores = fused(contrast(asked, told, floor, lam))
        cells = tuple(each.numpy() for each in picture_cells(model, inputs))
        maps.append(ContrastMap(scores.numpy(), asked.numpy(), told.numpy(), at.numpy(), cells, chosen))
    return tuple(maps)


def _columns(model: Model, samples: Samples) -> list[Tensor]:
    nothing = torch.zeros(0, dtype=torch.long)
    return [torch.cat([nothing, *picture_columns(model, inputs)]) for inputs in samples.inputs]
