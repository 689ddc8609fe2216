"""What heads read and write, as weights: found by asking each block, not by looking for parameters by name.

A block's queries, keys and values at position 0 (where rotary positions turn nothing) are asked for one direction of
the residual stream after the other. Half the difference between a direction and its opposite has no biases in it. So
the norm's weight is folded in, and for a LayerNorm so is the subtraction of the mean, whatever the architecture.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headlens.hooks.base_run import record_base
from headlens.hooks.block_parts import BlockParts, block_parts
from headlens.hooks.intercept import listening
from headlens.hooks.model import Model
from headlens.hooks.readout import rounding

# A direction this long makes the small constant under a norm's square root vanish.
_LENGTH = 1000.0
# Directions that are asked for at once.
_AT_ONCE = 1024
_NAMES = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """One layer's weights in float32, from the normed residual stream. Queries or keys that are normed have none."""

    q: Float[Tensor, "head d_model d_head"] | None
    k: Float[Tensor, "kv_head d_model d_head"] | None
    v: Float[Tensor, "kv_head d_model d_value"]
    o: Float[Tensor, "head d_value d_model"]

    def of_head(self, name: str, head: int) -> Tensor:
        """The q, k, v or o of a query head: key and value are those of its group."""
        weights = getattr(self, name)
        return weights[head * len(weights) // len(self.o)]


@torch.no_grad()
def read_weights(model: Model) -> tuple[HeadWeights, ...]:
    """Every layer's weights. ValueError for values that are no linear function of the normed residual stream."""
    base = record_base(model, torch.zeros(1, 1, dtype=torch.int64, device=model.device), 0)
    parts = block_parts(model, base)
    with listening(model.hf):
        return tuple(_of_layer(model, part) for part in parts)


def _of_layer(model: Model, part: BlockParts) -> HeadWeights:
    width = model.d_model
    device = part.kept.resid_pre.device
    directions = torch.eye(width, device=device, dtype=model.dtype)
    # not centred, so that a LayerNorm shows
    some = torch.randn(8, width, generator=torch.Generator().manual_seed(0)) + 0.5
    some = (some / some.norm(dim=1, keepdim=True)).to(directions)
    answers, tried = _halves(part, directions), _halves(part, some)
    within = rounding(model.dtype)
    found = {name: _linear(answers[name], tried[name], some.float(), within) for name in _NAMES}
    values = found.pop("v")
    if values is None:
        raise ValueError(
            f"The values of {type(part.layer.attention).__name__} are no linear function of the normed residual "
            "stream, so heads have no weights by themselves."
        )
    return HeadWeights(**found, v=values, o=part.layer.output_weights(model.n_heads).detach().float())


def _halves(part: BlockParts, directions: Float[Tensor, "direction d_model"]) -> dict[str, Tensor]:
    """Half of what differs between each direction and its opposite: [direction, head, d_head]."""
    found: dict[str, list[Tensor]] = {name: [] for name in _NAMES}
    for rows in directions.split(_AT_ONCE):
        up, down = (part.attention(sign * _LENGTH * rows[:, None]) for sign in (1, -1))
        for name, attribute in _NAMES.items():
            found[name].append((getattr(up, attribute) - getattr(down, attribute))[:, :, 0].float() / 2)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _linear(
    answers: Float[Tensor, "d_model head d_head"],
    tried: Float[Tensor, "some head d_head"],
    some: Float[Tensor, "some d_model"],
    within: float,
) -> Float[Tensor, "head d_model d_head"] | None:
    """The weights that give these answers behind an RMSNorm or a LayerNorm, or None if none do."""
    width = len(answers)
    centred = some - some.mean(1, keepdim=True)
    of_unit = (1 - 1 / width) ** 0.5
    for spread, size in ((some.norm(dim=1), 1.0), (centred.norm(dim=1), of_unit)):
        expected = torch.einsum("nd,dhe->nhe", some, answers) * (size / spread)[:, None, None]
        if torch.allclose(expected, tried, rtol=within, atol=within * float(tried.std())):
            return (answers * (size / width**0.5)).transpose(0, 1)
    return None
