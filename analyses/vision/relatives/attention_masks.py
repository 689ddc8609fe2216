"""Who sees whom among patches and text, as two architectures have it: masks for models that were trained without them.

    NAAViT (2502.02458)           row i sees key j where j <= i, and not (i and j patches and i != j)
    mutual attention (2503.02597) row i sees key j where j <= i, or (i a patch, j text behind it and before the answer)

The first hides keys, so it is an edit. The second shows keys that are hidden, which no edit of scores can do, so it is
an input: a mask of four axes in place of the attention mask. Both papers train with their masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headlens.analyses.vision.divergence.blind_reader import demands_pictures
from headlens.analyses.vision.redistribution.visual_sinks import image_tokens
from headlens.hooks.edits import Heads, Pos, check_positions
from headlens.hooks.group_masks import keys_of
from headlens.hooks.groups import Chosen, TokenIds
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model
from headlens.hooks.row_blocks import Block
from headlens.hooks.row_edits import KnockOut
from headlens.hooks.sites import MAIN


def no_attention_among_patches(model: Model, *, heads: Heads = "all") -> KnockOut:
    """The edit after which no patch attends to another, of its own picture or of others; each still sees itself and the
    text before it, and text sees all (NAAViT, 2502.02458).

    Rows of text stay bit for bit as they were in the layer itself; patches that differ are what they see in the next.
    SAISA, of the same paper, also leaves out what an MLP does to patches, and gives each layer its own projection of
    the picture; neither is an edit of attention, and neither is here.

    ValueError for a model that names no image token.
    """
    return KnockOut(heads, groups=Chosen(AmongPatches(image_tokens(model))), policy="renorm")


@dataclass(frozen=True)
class AmongPatches:
    """From a block of rows to the keys that a patch does not see: all other patches."""

    image: TokenIds

    def __call__(self, block: Block) -> Bool[Tensor, "batch 1 row key"]:
        image = keys_of(self.image, block, {})
        rows = image[..., block.queries - block.keys[0]].transpose(2, 3)
        others = block.keys != block.queries[:, None]
        return (image & rows & others).expand(len(block.scores), -1, -1, -1)


def mutual_attention(model: Model, inputs: Mapping[str, Tensor], answer: Pos = None) -> dict[str, Tensor]:
    """The inputs with a mask under which patches also see the text behind their picture, up to the answer (AKI's
    modality-mutual attention, 2503.02597): `model(mutual_attention(model, inputs))`, or to record, or under edits.

    Patches stay causal among themselves, also those of several pictures, and no row but a patch's sees further than
    before. An answer is invisible to patches: what they say must not depend on it, or a model would be scored on what
    it was shown. The mask [batch, head, row, key] is added to scores, 0 or the lowest number of the model's dtype.

    `generate` takes no such mask. To go on from a prompt, run it with `use_cache=True`, then give the cache and each
    new token without a mask: rows behind the prompt see everything. Give the answer's place to a whole run over both.

    Departures from the released code: there the question's end is a token of one model's vocabulary, its first alone,
    and a second picture breaks the mask. Text between two pictures is a question like any other here.

    Args:
        inputs: a batch as the model takes it, without padding.
        answer: the position of the answer's first token, one or one for each prompt; without it the prompts hold no
            answer.

    Raises:
        ValueError: for padding, a mask of four axes already, a position outside of the prompts, a model that names no
            image token, and one without plain causal attention in all layers (sliding windows, Gemma-3, Qwen-VL).
    """
    _check_fit(model)
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if mask is not None and (mask.shape != ids.shape or not bool(mask.all())):
        raise ValueError(
            f"attention_mask of shape {list(mask.shape)} was given for tokens {list(ids.shape)}; expected none, or one "
            "that hides nothing: give prompts without padding."
        )
    check_positions(answer)
    ends = torch.as_tensor(ids.shape[1] if answer is None else answer, device=ids.device).reshape(-1)
    if len(ends) not in (1, len(ids)) or bool((ends > ids.shape[1]).any()):
        raise ValueError(
            f"answer={answer} was given for {len(ids)} prompts of {ids.shape[1]} tokens; expected one position, or one "
            "for each prompt."
        )
    (token,) = image_tokens(model).ids
    seen = mutual_mask(ids == token, ends.expand(len(ids)))[:, None]
    hidden = torch.zeros(seen.shape, dtype=model.dtype, device=ids.device)
    added = hidden.masked_fill(~seen, torch.finfo(model.dtype).min)
    return {**inputs, "attention_mask": added.expand(-1, model.n_heads, -1, -1)}


def mutual_mask(image: Bool[Tensor, "batch pos"], answer: Tensor) -> Bool[Tensor, "batch pos pos"]:
    """Which keys each row sees: those up to itself, and at rows of patches the text behind them before `answer`
    [batch]."""
    at = torch.arange(image.shape[1], device=image.device)
    causal = at[None, :] <= at[:, None]
    question = ~image & (at < answer[:, None])
    return causal | (image[:, :, None] & question[:, None])


def patch_free_mask(image: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos pos"]:
    """Which keys each row sees without attention among patches."""
    at = torch.arange(image.shape[1], device=image.device)
    among = image[:, :, None] & image[:, None] & (at[None, :] != at[:, None])
    return (at[None, :] <= at[:, None]) & ~among


def _check_fit(model: Model) -> None:
    text: Any = model.hf.config.get_text_config()
    kinds: Sequence[str] = getattr(text, "layer_types", None) or ()
    windows = {kind for kind in kinds if kind != "full_attention"} or (not kinds and getattr(text, "sliding_window", 0))
    # by which Gemma-3 and PaliGemma let pictures, or whole prompts, see all of themselves
    both_ways = known_words(model.hf, token_type_ids=None)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if demands_pictures(model):
        raise ValueError(f"{model.name!r} gives its language model a mask of its own, and takes none with these axes.")
    if windows or both_ways or "mrope_section" in rope or not model.towers[MAIN].is_causal:
        raise ValueError(
            f"{model.name!r} does not have plain causal attention in all layers, but sliding windows, pictures that "
            "see all of themselves, or M-RoPE (whose positions are read off the mask); one mask would undo that."
        )
