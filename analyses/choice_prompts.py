"""A prompt with choices as its author writes it: text or token ids, in Python or as one JSON object a line.

The form, in a file (on one line) and as a Python dict:

    {"prompt": "Review: I would gladly go back.\\nSentiment:", "choices": [" positive", " negative"],
     "answer": " positive", "template": "review", "item": "go back", "prepend_bos": false}

The first three keys are required. `choices` are two or more, written as they follow the prompt, so mostly with a
leading space; each must be one token. `answer` is the text of the right one, or its place among them, from 0. The
prompt may be a list of token ids, and choices token ids, instead of text; the answer is then a place. Prompts that
share a `template` are one cluster of the bootstrap. Prompts that share an `item` ask the same question, if in other
words, and a split keeps them together; without it, only prompts of the same tokens do. `prepend_bos` is the same for
all prompts: true, false, or left out for what the tokenizer does by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headlens.analyses.authored import TEXT, TEXT_OR_IDS, TEXTS_OR_IDS, TRUTH, Form, Kind, is_text_or_whole, read_form
from headlens.hooks.nearest import did_you_mean

FORM = Form(
    noun="a prompt with choices",
    kinds={
        "prompt": TEXT_OR_IDS,
        "choices": TEXTS_OR_IDS,
        "answer": Kind(is_text_or_whole, "the text of a choice or its place, from 0"),
        "template": TEXT,
        "item": TEXT,
        "prepend_bos": TRUTH,
    },
    required=("prompt", "choices", "answer"),
    in_tuples=("template",),
)


@dataclass(frozen=True)
class ChoicePrompt:
    """A prompt, the tokens that may follow it, and which of them is right; `where` names the prompt in errors."""

    prompt: str | list[int]
    choices: Sequence[str | int]
    answer: str | int
    template: str = ""
    item: str = ""
    prepend_bos: bool | None = None
    where: str = ""

    @property
    def right(self) -> int:
        """The place of the right choice, from 0."""
        return self.choices.index(self.answer) if isinstance(self.answer, str) else self.answer


def as_choice_prompt(given: Mapping[str, Any] | Sequence[Any] | ChoicePrompt, where: str) -> ChoicePrompt:
    """A prompt from a dict of the form above or a tuple (prompt, choices, answer[, template]), or ValueError."""
    if isinstance(given, ChoicePrompt):
        where = given.where or where
        given = {key: getattr(given, key) for key in FORM.kinds}
    found = ChoicePrompt(**read_form(FORM, given, where), where=where)
    _check_choices(found)
    return found


def _check_choices(given: ChoicePrompt) -> None:
    if not given.prompt:
        raise ValueError(f"{given.where}: the prompt is empty; give the text that the choices follow.")
    if len(given.choices) < 2:
        raise ValueError(f"{given.where}: the choices are {[*given.choices]}; give two or more.")
    twice = [choice for at, choice in enumerate(given.choices) if choice in given.choices[:at]]
    if twice:
        raise ValueError(f"{given.where}: the choice {twice[0]!r} is given twice; the choices must differ.")
    if isinstance(given.answer, str):
        if given.answer not in given.choices:
            hint = did_you_mean(given.answer, [choice for choice in given.choices if isinstance(choice, str)])
            raise ValueError(
                f"{given.where}: the answer {given.answer!r} is not among the choices {[*given.choices]}{hint}."
            )
    elif not 0 <= given.answer < len(given.choices):
        raise ValueError(
            f"{given.where}: the answer is the place {given.answer}, but the {len(given.choices)} choices have the "
            f"places 0 to {len(given.choices) - 1}."
        )
