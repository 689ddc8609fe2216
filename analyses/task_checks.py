"""What makes a task whole: arrays that agree, positions inside their prompts, answers unlike their foils.

The functions take plain arrays, `rows` being those with one number per prompt: "answers", "foils" and one
"positions/NAME" for each named position. Types are checked here and not by annotation: the input is a user's.
"""

from collections.abc import Mapping, Sequence, Sized

import torch
from torch import Tensor


def check_shapes(name: str, tokens: Mapping[str, Tensor], lengths: Tensor, rows: Mapping[str, Tensor]) -> None:
    """ValueError unless both token arrays are [prompt, pos], all else is [prompt], and all are int64."""
    for key, array in {**tokens, "lengths": lengths, **rows}.items():
        if not isinstance(array, Tensor) or array.dtype != torch.int64:
            kind = array.dtype if isinstance(array, Tensor) else type(array).__name__
            raise ValueError(f"{key} is {kind}; token ids, lengths and positions are torch.int64 tensors.")
    if lengths.numel() == 0:
        raise ValueError(f"The task {name!r} has no prompts; give at least one pair.")
    for key, array in {**tokens, "lengths": lengths, **rows}.items():
        if array.ndim != (2 if key in tokens else 1) or len(array) != len(lengths):
            expected = "[prompt, pos]" if key in tokens else "[prompt]"
            raise ValueError(
                f"{key} has the shape {list(array.shape)}, but {expected} is expected, "
                f"with the {lengths.numel()} prompts that lengths has."
            )
    widths = {key: array.shape[1] for key, array in tokens.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"Clean and corrupted tokens are padded to one common length, but they have {widths}.")


def check_prompt(where: str, length: int, positions: Mapping[str, int], answer: int, foil: int) -> None:
    """ValueError, starting with `where`, unless all positions are in the prompt and the answers differ."""
    for name, position in positions.items():
        if not 0 <= position < length:
            raise ValueError(
                f"{where}: the position {name!r} is {position}, but the prompt's {length} tokens are "
                f"numbered 0 to {length - 1}."
            )
    if answer == foil:
        raise ValueError(f"{where}: the answer and the foil are the same token ({answer}); a metric compares two.")


def check_sets(where: str, answer: int, foil: int, answer_set: Sequence[int], foil_set: Sequence[int]) -> None:
    """ValueError, starting with `where`, unless each set has its own token and the sets share none."""
    for what, token, tokens in (("answer", answer, answer_set), ("foil", foil, foil_set)):
        if token not in tokens:
            raise ValueError(f"{where}: the {what} is the token {token}, which its {what} set lacks; put it in.")
    if shared := sorted({*answer_set} & {*foil_set}):
        raise ValueError(f"{where}: the tokens {shared} are in the answer set and in the foil set; give each one side.")


def check_values(width: int, lengths: Tensor, rows: Mapping[str, Tensor]) -> None:
    """ValueError naming the first prompt whose length, position or answer cannot be."""
    for prompt, length in enumerate(lengths.tolist()):
        if not 1 <= length <= width:
            raise ValueError(f"Prompt {prompt}: its length is {length}; the tokens given allow 1 to {width}.")
        positions = {
            key.removeprefix("positions/"): int(array[prompt])
            for key, array in rows.items()
            if key.startswith("positions/")
        }
        answer, foil = int(rows["answers"][prompt]), int(rows["foils"][prompt])
        check_prompt(f"Prompt {prompt}", length, positions, answer, foil)


def check_labels(prompts: int, labels: Mapping[str, Sized]) -> None:
    """ValueError unless there is one label per prompt, or none at all."""
    for key, given in labels.items():
        if len(given) not in (0, prompts):
            raise ValueError(f"{key} has {len(given)} entries for {prompts} prompts; give one for each.")


def check_ids(
    tokens: Mapping[str, Tensor],
    lengths: Tensor,
    rows: Mapping[str, Tensor],
    sets: Sequence[tuple[Sequence[int], Sequence[int]]],
    size: int | None,
) -> None:
    """ValueError naming the first prompt with a token id outside 0 to size - 1. Padding does not count."""
    for prompt, length in enumerate(lengths.tolist()):
        used = [array[prompt, :length] for array in tokens.values()]
        used += [rows[key][prompt : prompt + 1] for key in ("answers", "foils")]
        used += [lengths.new_tensor([*right, *wrong]) for right, wrong in sets[prompt : prompt + 1]]
        lowest, highest = (int(bound) for bound in torch.cat(used).aminmax())
        if lowest < 0:
            raise ValueError(f"Prompt {prompt} contains the token id {lowest}; ids start at 0.")
        if size is not None and highest >= size:
            raise ValueError(
                f"Prompt {prompt} contains the token id {highest}, but the model's vocabulary is 0 to "
                f"{size - 1}; use the tokenizer that belongs to the model."
            )
