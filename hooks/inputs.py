"""What a model is run on: text, token ids or a processor's output, made into keyword arguments for its forward."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headlens.hooks.spread import input_device

Tokens = str | Sequence[str] | Tensor | Mapping[str, Any]


def prepare(hf: PreTrainedModel, tokenizer: Any, tokens: Tokens, given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `hf.forward`, on its device.

    With an attention mask that starts with padding, positions are counted from each prompt's first real token, as
    `generate` does; a plain forward of transformers would count the padding.
    """
    inputs = {**_as_inputs(hf, tokenizer, tokens), **given}
    device = input_device(hf)
    inputs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
    mask = inputs.get("attention_mask")
    if (
        isinstance(mask, Tensor)
        and mask.ndim == 2
        and not bool(mask[:, 0].all())
        and "position_ids" not in inputs
        and "past_key_values" not in inputs
        and "position_ids" in inspect.signature(hf.forward).parameters
        # Qwen's models count rows and columns of a picture too, behind padding
        and not {"mm_token_type_ids", "image_grid_thw"} <= {*inputs}
    ):
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return inputs


def known_words(hf: PreTrainedModel, **wanted: Any) -> dict[str, Any]:
    """Those of the keyword arguments that the model's forward has a parameter for, or hands on to a model inside it
    that has one."""
    return {word: value for word, value in wanted.items() if _knows(hf, word)}


def _knows(hf: PreTrainedModel, word: str) -> bool:
    parameters = inspect.signature(hf.forward).parameters
    if word in parameters:
        return True
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return False
    inside = (each for each in hf.children() if isinstance(each, PreTrainedModel))
    # what reads pictures gets no words for text
    return any(_knows(each, word) for each in inside if "input_ids" in inspect.signature(each.forward).parameters)


def _as_inputs(hf: PreTrainedModel, tokenizer: Any, tokens: Tokens) -> dict[str, Any]:
    if isinstance(tokens, Tensor):
        if hf.main_input_name == "pixel_values":
            return {"pixel_values": tokens}
        return {"input_ids": tokens if tokens.ndim == 2 else tokens[None]}
    if isinstance(tokens, Mapping):
        return dict(tokens)
    texts = [tokens] if isinstance(tokens, str) else list(tokens)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"Cannot run on {type(tokens).__name__}; give text, token ids [batch, pos] or a processor's output."
        )
    if tokenizer is None:
        raise ValueError("This model was loaded without a tokenizer; give token ids, or load it with tokenizer=.")
    # a processor, whose first argument is pictures, carries the tokenizer of its text
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if len(texts) > 1 and tokenizer.pad_token_id is None:
        ids = [tokenizer(text)["input_ids"] for text in texts]
        if len({len(row) for row in ids}) > 1:
            raise ValueError("The texts differ in length and the tokenizer has no pad token; set tokenizer.pad_token.")
        return {"input_ids": torch.tensor(ids)}
    encoded = tokenizer(texts, return_tensors="pt", padding=len(texts) > 1)
    return {key: encoded[key] for key in ("input_ids", "attention_mask") if key in encoded}
