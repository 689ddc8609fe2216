"""From prompts with choices as written to the arrays of a choice task: tokenised, padded on the right, checked."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_checks import check_choices
from headlens.analyses.choice_prompts import ChoicePrompt
from headlens.analyses.tokens import answer_token, encode, lead_in, pad_rows, padding_id


def tokenize_choices(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[ChoicePrompt], name: str) -> dict[str, Any]:
    """The arrays and texts of a ChoiceTask, and whether a BOS precedes them; ValueError names the wrong prompt."""
    if not prompts:
        raise ValueError(f"The choice task {name!r} has no prompts; give at least one.")
    if len({prompt.prepend_bos for prompt in prompts}) > 1:
        raise ValueError(f"The prompts of the task {name!r} disagree about prepend_bos; give them all the same.")
    before = lead_in(tokenizer, prompts[0].prepend_bos)
    rows, choices = [], []
    for given in prompts:
        row = [*before, *encode(tokenizer, given.prompt)] if isinstance(given.prompt, str) else given.prompt
        if not row:
            raise ValueError(f"{given.where}: the prompt {given.prompt!r} has no tokens; give a longer one.")
        rows.append(row)
        choices.append(
            [answer_token(tokenizer, given.prompt, choice, given.where, "choice") for choice in given.choices]
        )
        check_choices(given.where, choices[-1], given.right)
    return {
        "tokens": pad_rows(rows, padding_id(tokenizer)),
        "lengths": torch.tensor([len(row) for row in rows]),
        "choices": pad_rows(choices, -1),
        "answers": torch.tensor([given.right for given in prompts]),
        "templates": tuple(given.template or given.where for given in prompts),
        "items": tuple(given.item for given in prompts),
        "texts": tuple(_text(given.prompt) for given in prompts),
        "choice_texts": tuple(tuple(_text(choice) for choice in given.choices) for given in prompts),
        "prepend_bos": bool(before) and any(isinstance(given.prompt, str) for given in prompts),
    }


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""
