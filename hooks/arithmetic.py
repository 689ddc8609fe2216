"""How much arithmetic patched cells need at the least: the yardstick for the replay engine's speed."""

from collections.abc import Iterable

from torch import nn

from headlens.hooks.discover import Layer
from headlens.hooks.model import Model
from headlens.hooks.sites import Head


def least_flops(model: Model, cells: Iterable[Head], prompts: int, suffix: int) -> int:
    """Floating-point operations, 2 per multiply-add, of the weight matrices that no exact method can spare.

    Each cell patches one head's z at `suffix` positions of `prompts` prompts and is read at the last of them. The
    patched layer still needs what follows its attention, every later layer all of it, and the last layer only the
    position that is read, but for its keys and values. Counting weight matrices alone (no attention products, norms or
    unembedding) keeps this a lower bound.
    """
    read, moved, last = prompts, prompts * suffix, model.n_layers - 1
    outside = [_weights(layer.block) - _weights(layer.attention) for layer in model.layers]
    after = [2 * (moved if index < last else read) * size for index, size in enumerate(outside)]
    inside = [2 * _inside(layer, moved, read if index == last else moved) for index, layer in enumerate(model.layers)]
    return sum(after[cell.layer] + sum(after[cell.layer + 1 :]) + sum(inside[cell.layer + 1 :]) for cell in cells)


def _inside(layer: Layer, moved: int, projected: int) -> int:
    """Multiply-adds of an attention module whose output is projected at fewer rows than it is computed at."""
    projection = _weights(layer.output_projection)
    return moved * (_weights(layer.attention) - projection) + projected * projection


def _weights(module: nn.Module) -> int:
    """Entries of all weight matrices inside a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)
