"""T-VHD (2412.13949): how much the heads that say each token of an answer depend on the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from tqdm import tqdm

from headlens.analyses.vision.answers import answered
from headlens.analyses.vision.divergence.head_outliers import outlying
from headlens.analyses.vision.divergence.head_reads import distances, last_z, last_z_without
from headlens.analyses.vision.divergence.image_free import image_free
from headlens.analyses.vision.samples import Samples
from headlens.hooks.model import Model


@dataclass(frozen=True, eq=False)
class TokenDivergence:
    """The series of one answer. `values` are T-VHD, `heads` the VHD of every head, both where each token is said."""

    tokens: Int64[np.ndarray, " token"]
    values: Float32[np.ndarray, " token"]
    heads: Float32[np.ndarray, "token layer head"]
    k: int


def token_divergence(
    model: Model,
    samples: Samples,
    answers: Sequence[Tensor | Sequence[int]],
    *,
    k: int | None = None,
    without: str = "deleted",
    position: str | None = None,
    zero_outliers: bool = True,
    progress: bool = True,
) -> tuple[TokenDivergence, ...]:
    """T-VHD of each token of an answer: VHD_lh = |z - z'|_2 at the token in front of it, where it is predicted, summed
    over the k heads of each layer that have most, and over layers (2412.13949).

    z is read with the picture and the answer so far, z' with the answer so far alone, in one pass each that is given
    the answer. The paper finds hallucinated words among those of low T-VHD; it depends on the place in the answer and
    on the kind of word too, so compare like with like. Not said in the paper is k, which here is half of the heads, as
    many as VHR chooses.

    Args:
        model: a vision-language model whose picture stands among its tokens.
        samples: prompts with pictures; read one at a time.
        answers: for each sample the token ids that follow its prompt, at least one, such as what was generated.
        k: heads of each layer that count, from 1 to n_heads.
        without, position: how the picture is taken away, as for `divergence`; "mean" is of the pictures of all samples.
        zero_outliers: leave out heads that surge without the picture, per token and layer (`head_outliers.py`), as the
            paper does; they are 0 in `heads` too.
        progress: show a bar.

    Returns:
        A series per sample, in units of z. Larger means that more depends on the picture there.

    Raises:
        ValueError: for another number of answers than samples, an answer that is empty or has the token of an image
            patch, k out of range, and for what `image_free` refuses.
    """
    count = max(1, model.n_heads // 2) if k is None else k
    if not 1 <= count <= model.n_heads:
        raise ValueError(f"k={k} was given; expected how many heads of a layer count, from 1 to {model.n_heads}.")
    said = [torch.as_tensor(answer, dtype=torch.long).cpu() for answer in answers]
    whole = answered(model, samples, said)
    free = image_free(model, whole, without, position, 1)
    series = []
    for at, answer in enumerate(tqdm(said, unit=" answers", desc="token_divergence", disable=not progress)):
        z = last_z(model, whole.inputs[at], len(answer))
        other = last_z_without(free, [at], 1, len(answer))
        heads = distances(model, z, other, False, False)[0]
        if zero_outliers:
            heads = heads.masked_fill(outlying(heads, other[0].square().sum(-1)), 0)
        values = heads.topk(count, -1).values.sum((-2, -1))
        series.append(TokenDivergence(answer.numpy(), values.cpu().numpy(), heads.cpu().numpy(), count))
    return tuple(series)
