"""Replay engines on a few random prompts, and all heads of a tiny model as cells."""

from itertools import product

import torch

from headlens.hooks.cells import Cell
from headlens.hooks.reading import Read
from headlens.hooks.sites import Head
from headlens.hooks.sweep import Pairs, Replayed
from tiny_models import inputs_for


def engine(model, prompts=3, length=13, start=5, tokens=True, site="z", **more):
    """Prompts that differ from `start` on, read at two tokens (or all of them)."""
    base = inputs_for("llama", batch=prompts, length=length)["input_ids"]
    other = base.clone()
    other[:, start] += 3
    read = Read(torch.tensor([[5, 9]] * prompts) if tokens else None)
    return Replayed(model, Pairs(base, other, start, read, site), **more)


def every_head(model):
    """A cell for each head."""
    return [Cell.of_heads([Head(*at)]) for at in product(range(model.n_layers), range(model.n_heads))]
