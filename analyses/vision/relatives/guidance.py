"""Guidance by the picture, the other half of PAI (2407.21771): away from what a model says without seeing it.

    out = l_u + gamma (l - l_u) ,   -inf where l < max l + log cut

with l the log-probabilities of the next token, and l_u those of the same text without the picture. gamma = 1 leaves l
as it is, but for the cut.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor

from headlens.analyses.vision.divergence.blind_reader import demands_pictures
from headlens.analyses.vision.divergence.image_free import image_free, of_tokens
from headlens.analyses.vision.samples import Samples
from headlens.hooks.clock import Clock, ticking
from headlens.hooks.inputs import known_words
from headlens.hooks.intercept import Attention, placed
from headlens.hooks.model import Model


def guided_logits(
    logits: Float[Tensor, "*batch token"], without: Float[Tensor, "*batch token"], gamma: float, cut: float = 0.1
) -> Float[Tensor, "*batch token"]:
    """Log-probabilities of the next token, moved away from those `without` the picture; not normalised again.

    Tokens less likely than `cut` times the likeliest, with the picture, are -inf; 0 cuts none. ValueError for a gamma
    that is not finite and a cut outside of 0 to 1.
    """
    if not math.isfinite(gamma) or not 0 <= cut <= 1:
        raise ValueError(f"gamma={gamma} and cut={cut} were given; expected a finite number, and a share from 0 to 1.")
    said, blind = logits.float().log_softmax(-1), without.float().log_softmax(-1)
    # not said for gamma = 1, where the sum would round
    out = said if gamma == 1 else blind + gamma * (said - blind)
    # a token that another processor forbids is forbidden in one of them alone
    out = out.masked_fill(said == -torch.inf, -torch.inf)
    return out if cut == 0 else out.masked_fill(said < said.amax(-1, keepdim=True) + math.log(cut), -torch.inf)


@dataclass(eq=False)
class Guidance(LogitsProcessor):
    """A logits processor for one batch of prompts: `model.generate(inputs, logits_processor=[found])`.

    Each prompt without its picture has a cached run of its own, which starts anew with each `generate`. In it edits
    inside the attention are off, as PAI's is in the authors' code; edits of the residual stream act in both runs.
    """

    model: Model
    gamma: float
    cut: float
    prompts: int  # tokens of each prompt with its picture
    text: Int[Tensor, "batch pos"]  # their tokens without it
    _cache: Any = None
    _read: int = 0  # tokens of the sequences that are in the cache, pictures counted
    _clock: Clock = field(default_factory=Clock)

    def __call__(self, input_ids: Int[Tensor, "batch pos"], scores: Float[Tensor, "batch token"]) -> Tensor:
        length = input_ids.shape[1]
        if len(input_ids) != len(self.text):
            raise ValueError(
                f"Guidance was made for {len(self.text)} prompts, and {len(input_ids)} are generated; "
                "generate those, without beams and with one answer each."
            )
        if length == self.prompts:
            self._cache, new = None, self.text
        elif length == self._read + 1:
            new = input_ids[:, -1:]
        else:
            raise ValueError(
                f"Guidance has read {self._read or self.prompts} tokens of each prompt and answer, and is asked about "
                f"{length}; give the prompts that it was made for, and let it see each token."
            )
        spared = known_words(self.model.hf, logits_to_keep=1)
        with torch.no_grad(), _apart(self.model, self._clock):
            out = self.model.hf(input_ids=new, **spared, past_key_values=self._cache, use_cache=True)
        self._cache, self._read = out.past_key_values, length
        return guided_logits(scores, out.logits[:, -1].to(scores.device), self.gamma, self.cut)


def guidance(model: Model, inputs: Mapping[str, Tensor], gamma: float = 1.1, cut: float = 0.1) -> Guidance:
    """Guide the answers to these prompts by their pictures (PAI, 2407.21771): a logits processor for `generate`.

    Without its picture a prompt has no image tokens, and the text behind moves up. The released code has gamma = 1.1 in
    its README and 2 as its default, and cuts at 0.1. Here the two runs are of the same weights at the same time, so an
    answer costs twice.

    Args:
        inputs: a batch of prompts as the model takes them, without padding; without pictures they are as long as each
            other.
        gamma: 1 changes nothing but for the cut; more leans on the picture.
        cut: the least share of the likeliest token's probability, 0 to 1.

    Raises:
        ValueError: for what `image_free` refuses, prompts whose texts differ in length, models with positions of
            several axes (M-RoPE), whose state a second run would change, or that demand a picture, and what
            `guided_logits` refuses; in `generate`, for other prompts, or beams.
    """
    guided_logits(torch.zeros(1), torch.zeros(1), gamma, cut)
    config: Any = model.hf.config.get_text_config()
    if "mrope_section" in (getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}):
        raise ValueError(
            f"{model.name!r} keeps the offset of its positions between steps, which a run beside it would change."
        )
    alone = [
        {name: inputs[name][row : row + 1].to(model.device) for name in of_tokens(inputs) if name != "position_ids"}
        for row in range(len(inputs["input_ids"]))
    ]
    if demands_pictures(model):
        raise ValueError(f"{model.name!r} does not run without a picture, and guidance runs the same model without it.")
    free = image_free(model, Samples("guided", tuple(alone)), "deleted", None, 1).samples.inputs
    lengths = sorted({one["input_ids"].shape[1] for one in free})
    if len(lengths) > 1:
        raise ValueError(
            f"Without their pictures the prompts have {lengths} tokens; guide prompts of one length together."
        )
    text = torch.cat([one["input_ids"] for one in free])
    return Guidance(model, gamma, cut, inputs["input_ids"].shape[1], text)


@contextmanager
def _apart(model: Model, own: Clock) -> Iterator[None]:
    """A run inside another: attention is plain, and the outer run's clock is put back afterwards."""
    plain = {layer.attention: _plain for tower in model.towers.values() for layer in tower.layers}
    with placed(plain), ticking(model.hf) as clock:
        outer = dict(vars(clock))
        vars(clock).update(vars(own), memory=own.memory)
        try:
            yield
        finally:
            vars(own).update(vars(clock))
            vars(clock).update(outer)


def _plain(module: nn.Module, call: Attention) -> tuple[Tensor, None]:
    return call.z(), None
