"""How heads reach the residual stream: through their rows of the output projection and, in Gemma, a post-norm."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headlens.hooks.discover import Layer
from headlens.hooks.frozen_norm import FrozenNorm, freeze_norm
from headlens.hooks.model import Model
from headlens.hooks.readout import rounding
from headlens.hooks.spread import bias_of


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """One layer's way from its heads' z to what its attention adds to the residual stream."""

    layer: Layer
    weights: Float[Tensor, "head d_head d_model"]
    post_norm: FrozenNorm | None

    def reading(
        self,
        direction: Float[Tensor, "row d_model"],
        z: Float[Tensor, "row head d_head"],
        attn_out: Float[Tensor, "row d_model"],
    ) -> Float[Tensor, "row head d_head"]:
        """The direction of each head's z that writes along `direction` of the residual stream.

        A post-norm keeps the statistics that it has at this z. ValueError if z does not make `attn_out`, so that heads
        are not all that is added.
        """
        weights, bias = self.weights.float(), bias_of(self.layer.output_projection)
        projected = torch.einsum("rhd,hdm->rm", z, weights)
        projected = projected if bias is None else projected + bias.detach().float()
        written = projected if self.post_norm is None else self.post_norm.module(projected)
        if float((written - attn_out).abs().max()) > rounding(self.weights.dtype) * float(attn_out.abs().max()):
            raise ValueError(
                f"{type(self.layer.attention).__name__} does more with its heads' outputs than project them and add "
                "them up, so nothing can be attributed to a head."
            )
        if self.post_norm is not None:
            direction = self.post_norm.pulled_back(direction, projected)
        return torch.einsum("hdm,rm->rhd", weights, direction)


def head_output(model: Model, layer: Layer) -> HeadOutput:
    """The head output of one layer; ValueError for a post-norm that is neither an RMSNorm nor a LayerNorm."""
    has_norm = layer.attention_addition is not layer.output_projection
    post_norm = freeze_norm(layer.attention_addition, model.d_model) if has_norm else None
    return HeadOutput(layer, layer.output_weights(model.n_heads).detach(), post_norm)
