"""Faster linear layers for the length of a sweep, from packed copies of their weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headlens.hooks.model import Model
from headlens.hooks.shadow import shadowed
from headlens.kernels.packed_linear import pack


def packed_bytes(model: Model) -> int:
    """What packed copies of all linear layers in the model's blocks take."""
    return sum(linear.weight.nbytes for linear in _linears(model))


@contextmanager
def packed_linears(model: Model) -> Iterator[None]:
    """Run the blocks' linear layers on packed weights inside the block, where this machine has a faster way.

    The weights must not change meanwhile. Runs with gradients are not affected.
    """
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    for linear in _linears(model):
        product = pack(linear.weight, linear.bias)
        if product is not None:
            forwards[linear] = _without_gradients(product, linear.forward)
    with shadowed(forwards):
        yield


def _linears(model: Model) -> list[nn.Linear]:
    # subclasses (quantised, adapted) compute something else, and a replaced forward is somebody's business
    modules = (module for layer in model.layers for module in layer.block.modules())
    return [module for module in modules if type(module) is nn.Linear and "forward" not in module.__dict__]


def _without_gradients(product: Callable[[Tensor], Tensor], original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x: original(x) if torch.is_grad_enabled() else product(x)
