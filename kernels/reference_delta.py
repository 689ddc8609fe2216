"""What attention says when cells exchange some heads' `z`: the plain-torch definition."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headlens.kernels.reference import head_delta


def patched_outputs(
    attended: Float[Tensor, "prompt suffix d_model"],
    source: Float[Tensor, "prompt reach head d"],
    base: Float[Tensor, "prompt reach head d"],
    output_weights: Float[Tensor, "head d d_model"],
    cells: Int[Tensor, "cell heads_per_cell"],
) -> Float[Tensor, "cell prompt suffix d_model"]:
    """`attended` + the sum of `(source - base)[..., head] @ W_O[head]` over each cell's heads, at the first positions.

    Behind the first `reach` positions it is just `attended`. Rows of `cells` with fewer heads end in -1.
    """
    heads = [[head for head in row if head >= 0] for row in cells.tolist()]
    every = sorted({head for row in heads for head in row})
    each = head_delta(source[:, :, every], base[:, :, every], output_weights[every])
    delta = torch.stack([each[[every.index(head) for head in row]].sum(0) for row in heads])
    return attended + pad(delta, (0, 0, 0, attended.shape[1] - source.shape[1]))
