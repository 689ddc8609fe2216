"""A prompt with choices as its author writes it: text or token ids, in Python or as one JSON object a line.

The form, in a file (on one line) and as a Python dict:

    {"prompt": "Review: I would gladly go back.\\nSentiment:", "choices": [" positive", " negative"],
     "answer": " positive", "template": "review", "prepend_bos": false}

The first three keys are required. `choices` are two or more, written as they follow the prompt, so mostly with a
leading space; each must be one token. `answer` is the text of the right one, or its place among them, from 0. The
prompt may be a list of token ids, and choices token ids, instead of text; the answer is then a place. Prompts that
share a `template` are one cluster of the bootstrap. `prepend_bos` is the same for all prompts: true, false, or left out
for what the tokenizer does by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headlens.hooks.nearest import did_you_mean

REQUIRED = ("prompt", "choices", "answer")
KEYS = (*REQUIRED, "template", "prepend_bos")


@dataclass(frozen=True)
class ChoicePrompt:
    """A prompt, the tokens that may follow it, and which of them is right; `where` names the prompt in errors."""

    prompt: str | list[int]
    choices: Sequence[str | int]
    answer: str | int
    template: str = ""
    prepend_bos: bool | None = None
    where: str = ""

    @property
    def right(self) -> int:
        """The place of the right choice, from 0."""
        return self.choices.index(self.answer) if isinstance(self.answer, str) else self.answer


def as_choice_prompt(given: Mapping[str, Any] | Sequence[Any] | ChoicePrompt, where: str) -> ChoicePrompt:
    """A prompt from a dict of the form above or a tuple (prompt, choices, answer), or ValueError."""
    if isinstance(given, ChoicePrompt):
        found = replace(given, where=given.where or where)
        _check_choices(found)
        return found
    if not isinstance(given, Mapping):
        if isinstance(given, str) or not isinstance(given, Sequence) or not 3 <= len(given) <= 4:
            raise ValueError(
                f"{where}: {given!r} is not a prompt with choices; give a dict, or a tuple (prompt, choices, answer"
                "[, template])."
            )
        given = dict(zip(KEYS, given, strict=False))
    for key in given:
        if key not in KEYS:
            hint = did_you_mean(key, KEYS)
            raise ValueError(f"{where}: unknown key {key!r}{hint}; a prompt has the keys {', '.join(KEYS)}.")
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise ValueError(f"{where}: {' and '.join(map(repr, missing))} missing; a prompt needs {', '.join(REQUIRED)}.")
    for key, value in given.items():
        _check_value(key, value, where)
    found = ChoicePrompt(**given, where=where)
    _check_choices(found)
    return found


def _check_value(key: str, value: Any, where: str) -> None:
    if key == "prompt":
        fits = isinstance(value, str) or (isinstance(value, list) and all(_is_whole(token) for token in value))
        expected = "text or a list of token ids"
    elif key == "choices":
        fits = isinstance(value, list | tuple) and all(isinstance(token, str) or _is_whole(token) for token in value)
        expected = "a list of texts or token ids"
    elif key == "answer":
        fits, expected = isinstance(value, str) or _is_whole(value), "the text of a choice or its place, from 0"
    elif key == "template":
        fits, expected = isinstance(value, str), "text"
    else:
        fits, expected = value is None or isinstance(value, bool), "true or false"
    if not fits:
        raise ValueError(f"{where}: {key!r} is {value!r}; it must be {expected}.")


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


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
