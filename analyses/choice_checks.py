"""What makes a choice task whole: arrays that agree, choices that differ, answers among them, ids that exist.

Types are checked here and not by annotation: the input is a user's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

AXES = {"tokens": "[prompt, pos]", "lengths": "[prompt]", "choices": "[prompt, choice]", "answers": "[prompt]"}


def check_arrays(name: str, arrays: Mapping[str, Tensor]) -> None:
    """ValueError unless `arrays`, which has all of AXES, are int64 tensors of these axes with one number of prompts."""
    for key, array in arrays.items():
        if not isinstance(array, Tensor) or array.dtype != torch.int64:
            kind = array.dtype if isinstance(array, Tensor) else type(array).__name__
            raise ValueError(f"{key} is {kind}; token ids, lengths and answers are torch.int64 tensors.")
    prompts = arrays["lengths"].numel()
    if prompts == 0:
        raise ValueError(f"The choice task {name!r} has no prompts; give at least one.")
    for key, array in arrays.items():
        if array.ndim != AXES[key].count(",") + 1 or len(array) != prompts:
            raise ValueError(
                f"{key} has the shape {list(array.shape)}, but {AXES[key]} is expected, "
                f"with the {prompts} prompts that lengths has."
            )


def check_prompts(arrays: Mapping[str, Tensor]) -> None:
    """ValueError naming the first prompt whose length, choices or answer cannot be."""
    width = arrays["tokens"].shape[1]
    rows = zip(*(arrays[key].tolist() for key in ("lengths", "choices", "answers")), strict=True)
    for prompt, (length, choices, answer) in enumerate(rows):
        if not 1 <= length <= width:
            raise ValueError(f"Prompt {prompt}: its length is {length}; the tokens given allow 1 to {width}.")
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
    for prompt, length in enumerate(arrays["lengths"].tolist()):
        choices = arrays["choices"][prompt]
        used = torch.cat([arrays["tokens"][prompt, :length], choices[choices != -1]])
        lowest, highest = (int(bound) for bound in used.aminmax())
        if lowest < 0:
            raise ValueError(f"Prompt {prompt} contains the token id {lowest}; ids start at 0.")
        if size is not None and highest >= size:
            raise ValueError(
                f"Prompt {prompt} contains the token id {highest}, but the model's vocabulary is 0 to "
                f"{size - 1}; use the tokenizer that belongs to the model."
            )
