"""One whole forward per cell: the plain way to patch z, which the replay engine must equal.

Tests compare the engine with it, and the engine falls back on it for a model that it cannot replay exactly.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.hooks.edits import Patch
from headlens.hooks.model import Model
from headlens.hooks.sites import Head


def plain_cells(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    source_z: Sequence[Float[Tensor, "prompt pos head d_head"]],
    cells: Sequence[Head],
    pos: int | None,
    read: Int[Tensor, "prompt token"],
) -> Float[Tensor, "cell prompt token"]:
    """Logits of the `read` tokens at the last position with one head's z patched, at `pos` or (None) everywhere."""
    logits = []
    for head in cells:
        with torch.no_grad(), model.edited(Patch(head, source_z[head.layer], pos=pos)):
            logits.append(model(tokens)[:, -1].gather(1, read))
    return torch.stack(logits)
