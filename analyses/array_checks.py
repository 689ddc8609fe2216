"""What every kind of task must have: arrays that agree, lengths within them, a label for each prompt, ids that exist.

Types are checked here and not by annotation: the input is a user's.
"""

from collections.abc import Iterable, Mapping, Sized

import torch
from torch import Tensor


def check_arrays(name: str, arrays: Mapping[str, Tensor], axes: Mapping[str, str]) -> None:
    """ValueError unless all are int64 tensors of the axes of their name, such as "[prompt, pos]", with one number of
    prompts, that of "lengths"."""
    for key, array in arrays.items():
        if not isinstance(array, Tensor) or array.dtype != torch.int64:
            kind = array.dtype if isinstance(array, Tensor) else type(array).__name__
            raise ValueError(f"{key} is {kind}; token ids, lengths, positions and answers are torch.int64 tensors.")
    prompts = arrays["lengths"].numel()
    if prompts == 0:
        raise ValueError(f"The task {name!r} has no prompts; give at least one.")
    for key, array in arrays.items():
        if array.ndim != axes[key].count(",") + 1 or len(array) != prompts:
            raise ValueError(
                f"{key} has the shape {list(array.shape)}, but {axes[key]} is expected, "
                f"with the {prompts} prompts that lengths has."
            )


def check_lengths(width: int, lengths: Tensor) -> None:
    """ValueError naming the first prompt that has no tokens, or more than there are."""
    for prompt, length in enumerate(lengths.tolist()):
        if not 1 <= length <= width:
            raise ValueError(f"Prompt {prompt}: its length is {length}; the tokens given allow 1 to {width}.")


def check_labels(prompts: int, labels: Mapping[str, Sized]) -> None:
    """ValueError unless there is one label per prompt, or none at all."""
    for key, given in labels.items():
        if len(given) not in (0, prompts):
            raise ValueError(f"{key} has {len(given)} entries for {prompts} prompts; give one for each.")


def check_used(used: Iterable[Tensor], size: int | None) -> None:
    """ValueError naming the first prompt that uses a token id outside 0 to size - 1 (None: any from 0)."""
    for prompt, ids in enumerate(used):
        lowest, highest = (int(bound) for bound in ids.aminmax())
        if lowest < 0:
            raise ValueError(f"Prompt {prompt} contains the token id {lowest}; ids start at 0.")
        if size is not None and highest >= size:
            raise ValueError(
                f"Prompt {prompt} contains the token id {highest}, but the model's vocabulary is 0 to "
                f"{size - 1}; use the tokenizer that belongs to the model."
            )
