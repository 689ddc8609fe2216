"""NormGate: heads switched off token by token, by the size of their queries."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.hooks.nearest import did_you_mean

RANKINGS = ("smallest", "largest", "random")


@dataclass(frozen=True, eq=False)
class NormGate:
    """Switch off, at every token, the share `off` of each layer's heads with the smallest queries: their z becomes 0.

    The training-free router of MoH (2410.11842): heads are ranked by the L2 norm of the token's query, which rotary
    position embeddings leave as it is; where a model norms its queries itself (Qwen3, Gemma 3), heads hardly differ.
    Its controls are `by` "largest", and "random" (drawn by `seed`, layer, position and head).
    """

    off: float = 0.25
    by: str = "smallest"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.off < 1:
            raise ValueError(f"NormGate was given off={self.off}; expected a share of heads from 0 up to below 1.")
        if self.by not in RANKINGS:
            hint = did_you_mean(self.by, RANKINGS)
            raise ValueError(f"Unknown ranking by={self.by!r}{hint}; heads are ranked by {', '.join(RANKINGS)}.")

    def switched_off(
        self, query: Float[Tensor, "batch pos head d"], layer: int, start: int
    ) -> Bool[Tensor, "batch pos head"]:
        """Which heads are off at each token; `start` is the position of the first."""
        batch, length, heads, _ = query.shape
        n_off = min(round(self.off * heads), heads - 1)
        if self.off and not n_off:
            raise ValueError(f"NormGate(off={self.off}) rounds to no head of {heads}; give a larger share.")
        positions = torch.arange(start, start + length, device=query.device)
        size = query.float().norm(dim=-1)
        if self.by == "largest":
            size = -size
        elif self.by == "random":
            size = _drawn(self.seed, layer, positions, heads).expand(batch, -1, -1)
        order = size.argsort(dim=-1, stable=True)
        return torch.zeros_like(size, dtype=torch.bool).scatter(-1, order[..., :n_off], True)


def _drawn(seed: int, layer: int, positions: Int[Tensor, " pos"], heads: int) -> Float[Tensor, "pos head"]:
    """Numbers that depend on where they stand alone, so that a cached step draws as a whole run does."""
    place = (positions[:, None] * heads + torch.arange(heads, device=positions.device)) + (layer + 1) * 1_000_003
    mixed = (place + (seed + 1) * 7_919) & 0x7FFFFFFF
    for factor in (0x45D9F3B, 0x119DE1F3):
        mixed = (((mixed >> 16) ^ mixed) * factor) & 0x7FFFFFFF
    return mixed.float()
