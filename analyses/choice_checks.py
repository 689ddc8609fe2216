"""What makes a choice task whole: choices that differ, answers among them, and what every task must have."""

from collections.abc import Mapping

import torch
from torch import Tensor

from headlens.analyses.array_checks import check_arrays, check_lengths, check_used

AXES = {"tokens": "[prompt, pos]", "lengths": "[prompt]", "choices": "[prompt, choice]", "answers": "[prompt]"}


def check_prompts(name: str, arrays: Mapping[str, Tensor]) -> None:
    """ValueError unless `arrays` are those of AXES and agree, or naming the first prompt that cannot be."""
    check_arrays(name, arrays, AXES)
    check_lengths(arrays["tokens"].shape[1], arrays["lengths"])
    for prompt, (choices, answer) in enumerate(
        zip(arrays["choices"].tolist(), arrays["answers"].tolist(), strict=True)
    ):
        check_choices(f"Prompt {prompt}", choices, answer)


def check_choices(where: str, choices: list[int], answer: int) -> None:
    """ValueError, starting with `where`, unless there are two different choices or more, and the answer is one."""
    given = [token for token in choices if token != -1]
    if len(given) < 2 or choices[: len(given)] != given:
        raise ValueError(f"{where}: the choices are {choices}; give two or more token ids, and -1 only behind them.")
    if len({*given}) < len(given):
        raise ValueError(f"{where}: two of the choices are the same token, {given}; the choices must differ.")
    if not 0 <= answer < len(given):
        raise ValueError(f"{where}: the answer is {answer}, but its choices have the places 0 to {len(given) - 1}.")


def check_ids(arrays: Mapping[str, Tensor], size: int | None) -> None:
    """ValueError naming the first prompt with a token id outside 0 to size - 1. Padding does not count."""
    rows = zip(arrays["tokens"], arrays["lengths"].tolist(), arrays["choices"], strict=True)
    check_used((torch.cat([tokens[:length], choices[choices != -1]]) for tokens, length, choices in rows), size)
