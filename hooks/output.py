"""The hidden states inside a module's return value, whatever tuple or tensor the architecture returns."""

from typing import Any

from torch import Tensor


def first_tensor(output: Any) -> Tensor:
    """The hidden states in a module's return value."""
    return output if isinstance(output, Tensor) else output[0]


def replace_first(output: Any, tensor: Tensor) -> Any:
    """The same return value with other hidden states and the same companions."""
    return tensor if isinstance(output, Tensor) else (tensor, *output[1:])


def alone(output: Any, tensor: Tensor) -> Any:
    """The same kind of return value with other hidden states; its companions (weights, cache) become None."""
    return tensor if isinstance(output, Tensor) else (tensor, *(None for _ in output[1:]))
