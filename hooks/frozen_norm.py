"""A norm as a linear map: what it makes of each part of a vector, while the whole vector's statistics are held.

RMSNorm and LayerNorm differ in one thing, whether the mean is taken off first:

    norm(x) = weight * (x - mean(x)) * scale(x) + bias          (RMSNorm: x instead of x - mean(x))

With `scale` frozen at one x the rest is linear, so the parts of that x can be normed one by one and add up. Which of
the two a module is, its weight and its bias are found by probing it: Gemma's `1 + weight` is no special case.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headlens.hooks.spread import float32_copy

# Probes this long make the small constant under a norm's square root vanish.
_LENGTH = 1000.0
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """An RMSNorm, or (`centred`) a LayerNorm, in float32."""

    module: nn.Module
    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool

    def pulled_back(
        self, direction: Float[Tensor, "row d_model"], at: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """`direction` behind the norm, seen from before it, with the statistics of `at`.

        For parts that sum to `at`, `part @ pulled_back` sum to `(module(at) - bias) @ direction`.
        """
        shape = self.weight * self._centre(at)
        # read off the module's own answer, so that nothing need be known of what stands under its square root
        scale = ((self.module(at) - self.bias) * shape).sum(-1, keepdim=True)
        scale = scale / shape.square().sum(-1, keepdim=True).clamp_min(_TINY)
        return self._centre(scale * self.weight * direction)

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def fits(self, x: Float[Tensor, "row d_model"]) -> bool:
        """Whether the formula gives what the module gives."""
        centred = self._centre(x)
        formula = self.weight * centred / centred.square().mean(-1, keepdim=True).sqrt() + self.bias
        answer = self.module(x)
        return answer.shape == x.shape and torch.allclose(answer, formula, rtol=1e-3, atol=1e-3 * float(answer.std()))


@torch.no_grad()
def freeze_norm(module: nn.Module, width: int) -> FrozenNorm:
    """The norm that a module over vectors of `width` entries computes.

    ValueError, naming the class, for a module that is neither an RMSNorm nor a LayerNorm over all its entries.
    """
    own = float32_copy(module)
    device = next((parameter.device for parameter in own.parameters()), torch.device("cpu"))
    # no entry is near 0, the mean is 0, and so both kinds of norm treat it alike
    probe = torch.ones(width)
    probe[1::2] = -1
    probe = (_LENGTH * (probe - probe.mean())).to(device)
    random = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(device)
    sizes = torch.tensor([[0.1], [1.0], [3.0], [10.0]], device=device)
    up, down = own(probe[None])[0], own(-probe[None])[0]
    if up.shape == probe.shape:
        bias = (up + down) / 2
        weight = (up - bias) * probe.square().mean().sqrt() / probe
        for centred in (False, True):
            norm = FrozenNorm(own, weight, bias, centred)
            if norm.fits(_LENGTH * sizes * (random + 1)):
                return norm
    raise ValueError(
        f"{type(module).__name__} is neither an RMSNorm nor a LayerNorm over {width} entries, so what passes through "
        "it cannot be split into parts."
    )
