"""What makes a task whole: positions inside their prompts, answers unlike their foils, and what every task must have.

The functions take plain arrays, `rows` being those with one number per prompt: "answers", "foils" and one
"positions/NAME" for each named position.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headlens.analyses.array_checks import check_arrays, check_lengths, check_used


def check_shapes(name: str, tokens: Mapping[str, Tensor], lengths: Tensor, rows: Mapping[str, Tensor]) -> None:
    """ValueError unless both token arrays are [prompt, pos], all else is [prompt], and all are int64."""
    axes = {key: "[prompt, pos]" if key in tokens else "[prompt]" for key in (*tokens, "lengths", *rows)}
    check_arrays(name, {**tokens, "lengths": lengths, **rows}, axes)
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
    check_lengths(width, lengths)
    for prompt, length in enumerate(lengths.tolist()):
        positions = {
            key.removeprefix("positions/"): int(array[prompt])
            for key, array in rows.items()
            if key.startswith("positions/")
        }
        answer, foil = int(rows["answers"][prompt]), int(rows["foils"][prompt])
        check_prompt(f"Prompt {prompt}", length, positions, answer, foil)


def check_ids(
    tokens: Mapping[str, Tensor],
    lengths: Tensor,
    rows: Mapping[str, Tensor],
    sets: Sequence[tuple[Sequence[int], Sequence[int]]],
    size: int | None,
) -> None:
    """ValueError naming the first prompt with a token id outside 0 to size - 1. Padding does not count."""
    check_used((_ids_of(tokens, rows, sets, prompt, length) for prompt, length in enumerate(lengths.tolist())), size)


def _ids_of(
    tokens: Mapping[str, Tensor],
    rows: Mapping[str, Tensor],
    sets: Sequence[tuple[Sequence[int], Sequence[int]]],
    prompt: int,
    length: int,
) -> Tensor:
    used = [array[prompt, :length] for array in tokens.values()]
    used += [rows[key][prompt : prompt + 1] for key in ("answers", "foils")]
    right, wrong = sets[prompt]
    return torch.cat([*used, used[0].new_tensor([*right, *wrong])])
