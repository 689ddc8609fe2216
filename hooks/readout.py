"""How a causal language model turns its last residual stream into logits: final norm, unembedding, scale, soft cap.

Nothing is looked up by name. The final norm is the module that reads the last block's output and writes what the
unembedding reads, in one small forward that is watched; what the model does to the unembedding's output afterwards
(Cohere's scale, Gemma 2's soft cap) is seen by handing it a ramp of logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.discover import trace_forward
from headlens.hooks.frozen_norm import FrozenNorm, freeze_norm
from headlens.hooks.intercept import listening
from headlens.hooks.model import Model
from headlens.hooks.shadow import shadowed
from headlens.hooks.sites import MAIN
from headlens.hooks.spread import bias_of, device_of, values_of

_N_TOKENS = 8
# The ramp of logits runs from 2^-6, where a soft cap does nothing yet, to 2^13, where it has flattened out.
_RAMP = (-6, 13)


def rounding(dtype: torch.dtype) -> float:
    """How far a sum of activations of this precision may be off, relative to their size, by rounding alone."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 5e-2


@dataclass(frozen=True, eq=False)
class Readout:
    """logits = soft cap of (scale * unembedding(final norm(residual stream)))."""

    final_norm: nn.Module
    frozen_norm: FrozenNorm
    unembedding: Any
    scale: float
    cap: float | None  # c of the soft cap c * tanh(logit / c)

    @torch.no_grad()
    def logits(self, resid: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row vocabulary"]:
        """The logits that the model makes of these residual vectors, were they its last: the logit lens."""
        unembedded = self.unembedding(self.final_norm(resid.to(self.unembedding.weight.dtype)))
        return _after(unembedded, self.scale, self.cap).to(resid.device)

    @torch.no_grad()
    def logits_of(
        self, resid: Float[Tensor, "row d_model"], tokens: Int[Tensor, "row token"]
    ) -> Float[Tensor, "row token"]:
        """`logits` of each row's own tokens alone, without the work for all others."""
        weight, bias = self._of_tokens(tokens)
        unembedded = torch.einsum("rd,rtd->rt", self.final_norm(resid.to(weight.dtype)).to(weight.device), weight)
        unembedded = unembedded if bias is None else unembedded + bias
        return _after(unembedded, self.scale, self.cap).to(resid.device)

    def direction(
        self, resid: Float[Tensor, "row d_model"], answers: Int[Tensor, " row"], foils: Int[Tensor, " row"]
    ) -> Float[Tensor, "row d_model"]:
        """The direction of the residual stream that writes answer logit minus foil logit, before a soft cap.

        The norm's statistics are those of `resid`. What any part of `resid` says directly is its dot product with the
        direction; the parts of `resid` and the two `biases` sum to the logit difference.
        """
        norm = self.frozen_norm
        return norm.pulled_back(self._apart(answers, foils), resid.float().to(norm.weight.device)).to(resid.device)

    def biases(
        self, answers: Int[Tensor, " row"], foils: Int[Tensor, " row"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """What the bias of the final norm and the bias of the unembedding say, whatever the residual stream."""
        of_norm = (self._apart(answers, foils) @ self.frozen_norm.bias).to(answers.device)
        _, bias = self._of_tokens(torch.stack([answers, foils]))
        if bias is None:
            return of_norm, torch.zeros_like(of_norm)
        return of_norm, (self.scale * (bias[0].float() - bias[1].float())).to(answers.device)

    def difference(
        self, resid: Float[Tensor, "row d_model"], answers: Int[Tensor, " row"], foils: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """Answer logit minus foil logit of these residual vectors, before a soft cap, by the norm itself."""
        normed = self.frozen_norm.module(resid.float().to(self.frozen_norm.weight.device))
        through = (normed * self._apart(answers, foils)).sum(-1).to(resid.device)
        return through + self.biases(answers, foils)[1].to(resid.device)

    def _apart(self, answers: Tensor, foils: Tensor) -> Float[Tensor, "row d_model"]:
        """What the unembedding has for the answers and not for the foils, where the final norm is."""
        weight, _ = self._of_tokens(torch.stack([answers, foils]))
        return self.scale * (weight[0].float() - weight[1].float()).to(self.frozen_norm.weight.device)

    def _of_tokens(self, tokens: Int[Tensor, "*row"]) -> tuple[Float[Tensor, "*row d_model"], Tensor | None]:
        """The unembedding's weights of these tokens, and its biases where it has any."""
        weight, bias = values_of(self.unembedding).detach(), bias_of(self.unembedding)
        tokens = tokens.to(weight.device)
        return weight[tokens], None if bias is None else bias.detach()[tokens]


@torch.no_grad()
def find_readout(model: Model) -> Readout:
    """Watch one small forward of `model` and describe how it ends.

    ValueError, naming the class, for a model that is not a causal language model, or that does something else between
    its last block and its logits than an RMSNorm or LayerNorm, an unembedding, a scale and a soft cap.
    """
    hf, name = model.hf, type(model.hf).__name__
    unembedding: Any = hf.get_output_embeddings()
    if hf.config.is_encoder_decoder or not model.towers[MAIN].is_causal or unembedding is None:
        raise ValueError(
            f"{model.name!r} ({name}) is not a causal language model, so its residual stream is not read out as the "
            "next token's logits; give a decoder such as Llama or GPT-2."
        )
    ids = torch.arange(_N_TOKENS, device=model.device)[None]
    trace = trace_forward(hf, {"input_ids": ids})
    calls = {call.module: call for call in trace.calls}
    written, read = calls[model.layers[-1].block].outputs[0], calls[unembedding].inputs[0]
    between = [
        call.module
        for call in trace.calls
        if call.inputs and call.outputs and _same(call.inputs[0], written) and _same(call.outputs[0], read)
    ]
    if not between:
        raise ValueError(
            f"{name} does more than a norm between its last block and its unembedding {type(unembedding).__name__}, "
            "so its logits cannot be split into what each part of the residual stream writes."
        )
    scale, cap = _what_follows(model, unembedding, ids)
    return Readout(between[0], freeze_norm(between[0], model.d_model), unembedding, scale, cap)


def _what_follows(model: Model, unembedding: Any, ids: Tensor) -> tuple[float, float | None]:
    """Scale and soft cap of what the model does to the unembedding's output."""
    weight = unembedding.weight
    ramp = torch.logspace(*_RAMP, len(weight), base=2).to(device_of(unembedding), weight.dtype)
    ramp[1::2] *= -1
    with listening(model.hf), shadowed({unembedding: lambda hidden: ramp.repeat(*hidden.shape[:-1], 1)}):
        seen = model.hf(input_ids=ids).logits[0, -1].to(ramp.device)
    scale, largest = float(seen[0] / ramp[0]), float(seen.abs().max())
    cap = None if largest > scale * float(ramp.abs().max()) / 2 else largest
    expected = _after(ramp, scale, cap)
    if seen.shape != ramp.shape or not torch.allclose(seen, expected, rtol=rounding(ramp.dtype), atol=0):
        raise ValueError(
            f"{type(model.hf).__name__} changes the output of its unembedding by something else than a scale and a "
            "soft cap, so its logits cannot be split into parts."
        )
    return scale, cap


def _after(unembedded: Tensor, scale: float, cap: float | None) -> Tensor:
    scaled = unembedded * scale
    return scaled if cap is None else cap * torch.tanh(scaled / cap)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))
