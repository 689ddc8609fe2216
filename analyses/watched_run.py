"""Runs of whole prompts that are only looked at, by watchers of attention rows and by taps, not for their logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headlens.hooks.attention_taps import Watch
from headlens.hooks.inputs import Tokens, known_words, prepare
from headlens.hooks.model import Model
from headlens.hooks.tapped import tapped
from headlens.hooks.taps import Tap


@dataclass(frozen=True, eq=False)
class WatchedRun:
    """One run to come, of the main tower's tokens: the decoder's own where a model has an encoder too."""

    model: Model
    inputs: Mapping[str, Any]
    ids: Int[Tensor, "prompt pos"] | None
    real: Bool[Tensor, "prompt pos"] | None  # False at padding; None where nothing says that there is some

    def __call__(self, acts: Sequence[Tap | Watch]) -> None:
        """Run the model under these, without gradients."""
        # spared are the logits of all positions, and a cache
        spared = known_words(self.model.hf, logits_to_keep=1, use_cache=False)
        with torch.no_grad(), tapped(self.model.hf, self.model.towers, acts):
            self.model({**spared, **self.inputs})


def watched_run(model: Model, tokens: Tokens) -> WatchedRun:
    """A run of text, texts, ids or a processor's output, as `Model` takes them. ValueError for a filled cache."""
    inputs = prepare(model.hf, model.tokenizer, tokens, {})
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise ValueError(
            f"A cache of {cache.get_seq_length()} tokens was given, and what their rows did is not in it (a mean over "
            "all rows of a prompt cannot be had in a cached decode step); give whole prompts, without past_key_values."
        )
    side = "decoder_" if getattr(model.hf.config, "is_encoder_decoder", False) else ""
    mask = inputs.get(f"{side}attention_mask")
    return WatchedRun(model, inputs, inputs.get(f"{side}input_ids"), None if mask is None else mask.bool())
