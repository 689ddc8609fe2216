"""Prompts with an answer behind them, to be read in one pass, and the one answer that a model gives to a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headlens.analyses.tokens import text_tokenizer
from headlens.analyses.vision.divergence.image_free import image_token, of_tokens
from headlens.analyses.vision.replies import replies
from headlens.analyses.vision.samples import Samples
from headlens.hooks.apply import Edit
from headlens.hooks.model import Model


def greedy_answer(
    model: Model, inputs: Mapping[str, Tensor], *, max_new_tokens: int = 40, edits: Sequence[Edit] = ()
) -> list[int]:
    """The token ids that the model says next, the likeliest one at each step, under these edits.

    What ends an answer is left out, unless it is all that was said. ValueError for no tokens to say.
    """
    (reply,) = replies(model, Samples("prompt", (inputs,)), max_new_tokens, under=edits)
    return [*(reply.tokens or reply.whole)]


def answer_ids(model: Model, text: str) -> list[int]:
    """The token ids of an answer given as text, taken as it is: where the tokenizer puts spaces in front of words, one
    may have to be given. ValueError for no tokenizer, no text, or words that the tokenizer does not know."""
    tokenizer = text_tokenizer(model)
    if tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer to read the answer with; give token ids, or load one.")
    ids = [int(one) for one in tokenizer(text, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise ValueError("The answer is empty; give one word or more, or leave it out and let the model answer.")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise ValueError(f"The tokenizer of {model.name} does not know all of {text!r}; give words that it knows.")
    return ids


def with_answer(model: Model, inputs: Mapping[str, Tensor], ids: Sequence[int]) -> dict[str, Tensor]:
    """The inputs of a prompt (a batch of 1) with an answer behind it; what goes with tokens goes on as for text that
    comes after the prompt. ValueError for an answer that holds the token of an image patch."""
    patch = image_token(model)
    if patch in ids:
        raise ValueError(f"The answer has the token of an image patch, {patch}; expected text.")
    tail = torch.tensor([[*ids]], dtype=inputs["input_ids"].dtype, device=inputs["input_ids"].device)
    # types of tokens are 0 for text, but for PaliGemma, where 0 is a prompt that sees all of itself
    kind = int(getattr(model.hf.config, "model_type", "") == "paligemma")
    fill = {"attention_mask": 1, "token_type_ids": kind}
    longer = {name: _longer(name, inputs[name], tail, fill.get(name, 0)) for name in of_tokens(inputs)}
    return {**inputs, **longer}


def answered(model: Model, samples: Samples, answers: Sequence[Tensor | Sequence[int]]) -> Samples:
    """The samples with all of their answers but the last token, behind which nothing is said.

    ValueError for another number of answers than samples, an answer without tokens, or with one of an image patch.
    """
    if len(answers) != len(samples):
        raise ValueError(f"{len(answers)} answers were given for {len(samples)} samples; give one for each.")
    grown = []
    for at, (inputs, answer) in enumerate(zip(samples.inputs, answers, strict=True)):
        said = torch.as_tensor(answer, dtype=torch.long)
        if said.ndim != 1 or not len(said):
            raise ValueError(f"Answer {at} has shape {[*said.shape]}; expected its token ids, one or more, in a row.")
        grown.append(with_answer(model, inputs, said[:-1].tolist()))
    return replace(samples, inputs=tuple(grown))


def _longer(name: str, value: Tensor, tail: Tensor, filler: int) -> Tensor:
    if name == "input_ids":
        return torch.cat([value, tail], 1)
    if name == "position_ids":
        return torch.cat([value, value[:, -1:] + 1 + torch.arange(tail.shape[1], device=value.device)], 1)
    return torch.cat([value, torch.full(tail.shape, filler, dtype=value.dtype, device=value.device)], 1)
