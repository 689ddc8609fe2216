"""Which rows an edit's positions name."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headlens.hooks.edits import Pos


def touched(pos: Pos, rows: Int[Tensor, " row"], batch: int) -> Bool[Tensor, "#batch row"]:
    """Which rows, given by their absolute positions, `pos` names; as many as prompts are one per prompt."""
    if pos is None:
        return torch.ones(1, len(rows), dtype=torch.bool, device=rows.device)
    wanted = torch.as_tensor(pos, device=rows.device)
    if wanted.ndim == 0:
        return (rows == wanted)[None]
    if len(wanted) != batch:
        raise ValueError(
            f"pos has {len(wanted)} entries for a batch of {batch}; give one position, or one for each prompt."
        )
    return rows[None] == wanted[:, None]
