"""What senders write on average over many prompts, or not at all: the values that stand in for what is ablated."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from headlens.hooks.edges.node_values import NodeValues


def positional_means(runs: Iterable[NodeValues]) -> NodeValues:
    """The mean over all prompts at each position [1 pos ...], of runs from position 0 on.

    A position that only longer prompts have is the mean over those. ValueError for no runs.
    """
    total, counts = _total(runs)
    return total.mapped(lambda tensor: tensor / counts.to(tensor).reshape(1, -1, *(1,) * (tensor.ndim - 2)))


def means(runs: Iterable[NodeValues]) -> NodeValues:
    """The mean over all prompts and positions [1 1 ...] of runs from position 0 on. ValueError for no runs."""
    total, counts = _total(runs)
    return total.mapped(lambda tensor: tensor.sum(1, keepdim=True) / counts.sum().to(tensor))


def zeros(values: NodeValues) -> NodeValues:
    """Nothing written by anyone [1 1 ...], for a model of which `values` are some."""
    return values.mapped(lambda tensor: torch.zeros_like(tensor[:1, :1]))


def _total(runs: Iterable[NodeValues]) -> tuple[NodeValues, Tensor]:
    """Sums over prompts [1 pos ...], and how many prompts have each position."""
    total, counts = None, torch.zeros(0)
    for values in runs:
        prompts, length = values.embedding.shape[:2]
        counts = pad(counts, (0, max(0, length - len(counts))))
        counts[:length] += prompts
        summed = _padded(values.mapped(lambda tensor: tensor.sum(0, keepdim=True)), len(counts))
        total = summed if total is None else _padded(total, len(counts)).plus(summed)
    if total is None:
        raise ValueError("The mean over no runs was asked for; give at least one.")
    return total, counts


def _padded(values: NodeValues, length: int) -> NodeValues:
    return values.mapped(lambda tensor: pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, length - tensor.shape[1])))
