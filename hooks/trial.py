"""Is the replay engine exact on this model? Tried on real cells before a sweep trusts it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headlens.hooks.cells import Cell, Rows
from headlens.hooks.halving import within_memory
from headlens.hooks.model import Model
from headlens.hooks.plain import Plain
from headlens.hooks.reading import Read
from headlens.hooks.sites import MAIN
from headlens.hooks.sweep import Pairs, Replayed

# How far replayed logits of float32 may be from a plain forward's, relative to their size, before replay is given up.
EXACT = 1e-4


def why_not_replayed(replayed: Replayed, cells: Sequence[Cell], rows: Rows) -> str | None:
    """None if the engine is exact on this model, else the reason; tried on these cells of the first prompt."""

    def whole(alone: Pairs) -> Tensor:
        first = Rows(rows.chosen[:1], rows.key)
        return Plain(replayed.model, alone).patched(cells, first, lambda logits: logits)

    def engine(_: Pairs) -> Tensor:
        return replayed.patched(cells, rows, lambda logits: logits)[:, :1]

    return why_not_exact(replayed.model, replayed.pairs, engine, whole)


def why_not_exact(
    model: Model, pairs: Pairs, engine: Callable[[Pairs], Tensor], whole: Callable[[Pairs], Tensor]
) -> str | None:
    """None if the engine gives what whole forwards give on the first prompt, which both are handed, else the reason."""
    if not model.towers[MAIN].is_causal:
        return f"{type(model.hf).__name__} is not causal"
    tokens = pairs.read.tokens
    first = Read(None if tokens is None else tokens[:1], pairs.read.last)
    alone = replace(pairs, base=pairs.base[:1], other=pairs.other[:1], read=first)
    try:
        got = engine(alone)
        # memory that does not suffice is no sign of an unusual architecture
        with within_memory(f"whole forwards of one prompt of {pairs.base.shape[1]} tokens"):
            want = whole(alone)
        error = float((got - want).abs().max())
        if error > _tolerance(model) * max(1.0, float(want.abs().max())):
            return f"replaying {type(model.hf).__name__} is off by {error:.2g}"
    except (TypeError, RuntimeError, AttributeError, KeyError, IndexError) as problem:
        # whatever an unusual architecture trips over on the fast path, the plain one is right
        return f"{type(model.hf).__name__} cannot be replayed ({type(problem).__name__}: {problem})"
    return None


def _tolerance(model: Model) -> float:
    return EXACT if model.dtype in (torch.float32, torch.float64) else 0.1
