"""Patched heads in a group of prompts: by the replay engine where it is exact, by plain forwards elsewhere."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headlens.hooks.base_run import Base, record_base
from headlens.hooks.model import Model
from headlens.hooks.plain import plain_cells
from headlens.hooks.replay import replay, run_from
from headlens.hooks.sites import MAIN, Head, Site
from headlens.kernels.reference import head_delta

# Rows (cells x prompts x positions) that one replayed batch aims at: large enough for the full matrix-multiply rate,
# small enough that a block's activations stay in a CPU's cache.
ROWS = 1536
# How far replayed logits of float32 may be from a plain forward's, relative to their size, before replay is given up.
EXACT = 1e-4


class Engine(ABC):
    """Patches heads in one group of prompts, and reads logits at the last position."""

    @property
    @abstractmethod
    def base_logits(self) -> Float[Tensor, "prompt token"]:
        """What the base run says of the `read` tokens."""

    @property
    @abstractmethod
    def source_logits(self) -> Float[Tensor, "prompt token"]:
        """What the source run says of them."""

    @abstractmethod
    def patched(self, cells: Sequence[Head], pos: int | None) -> Float[Tensor, "cell prompt token"]:
        """Logits with one head's z replaced by the source run's, at `pos` or (None) at every position."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Same-length prompts in two runs: `base` is patched with z from `source`. They agree before `start`."""

    base: Int[Tensor, "prompt pos"]
    source: Int[Tensor, "prompt pos"]
    start: int
    read: Int[Tensor, "prompt token"]  # whose logits are wanted, at the last position


@dataclass(frozen=True, eq=False)
class Replayed(Engine):
    """The replay engine on one group of prompts."""

    model: Model
    pairs: Pairs

    @cached_property
    def base(self) -> Base:
        return record_base(self.model, self.pairs.base, self.pairs.start)

    @cached_property
    def runs(self) -> tuple[tuple[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]:
        """Logits and each layer's z of the base run and of the source run, computed alike: equal inputs, equal bits."""
        base, source = (run_from(self.model, self.base, tokens) for tokens in (self.pairs.base, self.pairs.source))
        return base, source

    @property
    def base_logits(self) -> Float[Tensor, "prompt token"]:
        return self.runs[0][0].gather(1, self.pairs.read)

    @property
    def source_logits(self) -> Float[Tensor, "prompt token"]:
        return self.runs[1][0].gather(1, self.pairs.read)

    def patched(self, cells: Sequence[Head], pos: int | None) -> Float[Tensor, "cell prompt token"]:
        start = self.pairs.start if pos is None else pos
        out = self.base_logits.expand(len(cells), -1, -1).clone()
        if start < self.pairs.start:
            return out
        rows = slice(start - self.pairs.start, None if pos is None else start - self.pairs.start + 1)
        moving = sorted((cell, index) for index, cell in enumerate(cells) if self._differs(cell, rows))
        limit = max(1, ROWS // (len(self.pairs.base) * (self.pairs.base.shape[1] - start)))
        for some in _batches(moving, limit):
            heads: dict[int, list[int]] = defaultdict(list)
            for cell, _ in some:
                heads[cell.layer].append(cell.head)
            patches = {layer: self._deltas(layer, chosen, start, rows) for layer, chosen in heads.items()}
            out[[index for _, index in some]] = replay(self.model, self.base, patches, start, self.pairs.read)
        return out

    def _differs(self, cell: Head, rows: slice) -> bool:
        """Whether the head says something else in the source run; one that does not moves nothing."""
        base, source = (z[cell.layer][:, rows, cell.head] for _, z in self.runs)
        return not torch.equal(base, source)

    def _deltas(
        self, layer: int, heads: list[int], start: int, rows: slice
    ) -> Float[Tensor, "head prompt suffix d_model"]:
        """What the patches add to the layer's attention output from `start` on: nothing behind the patched rows."""
        base, source = (z[layer][:, rows, heads] for _, z in self.runs)
        weights = self.model.layers[layer].output_weights(self.model.n_heads)[heads]
        delta = head_delta(source, base, weights)
        return pad(delta, (0, 0, 0, self.pairs.base.shape[1] - start - delta.shape[2]))


@dataclass(frozen=True, eq=False)
class Plain(Engine):
    """One whole forward per cell."""

    model: Model
    pairs: Pairs

    @cached_property
    def source(self) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            logits, kept = self.model.record(self.pairs.source, names_filter="z", budget=None)
        return logits[:, -1], [kept[str(Site("z", layer))] for layer in range(self.model.n_layers)]

    @cached_property
    def base(self) -> Tensor:
        """Logits of the base run at the last position."""
        with torch.no_grad():
            return self.model(self.pairs.base)[:, -1]

    @property
    def base_logits(self) -> Float[Tensor, "prompt token"]:
        return self.base.gather(1, self.pairs.read)

    @property
    def source_logits(self) -> Float[Tensor, "prompt token"]:
        return self.source[0].gather(1, self.pairs.read)

    def patched(self, cells: Sequence[Head], pos: int | None) -> Float[Tensor, "cell prompt token"]:
        return plain_cells(self.model, self.pairs.base, self.source[1], cells, pos, self.pairs.read)


def _batches(items: list[Any], limit: int) -> list[list[Any]]:
    """As few lists as none needs more than `limit` items, of nearly equal length: a short one would waste the rate."""
    count = -(-len(items) // limit)
    return [items[at * len(items) // count : (at + 1) * len(items) // count] for at in range(count)]


def why_not_replayed(replayed: Replayed, pos: int | None) -> str | None:
    """None if the engine is exact on this model, else the reason; tried on real cells of the first prompt.

    The cells are patched at `pos`, or (None) at every position, as the sweep will.
    """
    model, pairs = replayed.model, replayed.pairs
    if not model.towers[MAIN].is_causal:
        return f"{type(model.hf).__name__} is not causal"
    plain = Plain(model, Pairs(pairs.base[:1], pairs.source[:1], pairs.start, pairs.read[:1]))
    cells = [Head(0, 0), Head(model.n_layers - 1, model.n_heads - 1)]
    try:
        got, want = replayed.patched(cells, pos)[:, :1], plain.patched(cells, pos)
        error = float((got - want).abs().max())
        if error > _tolerance(model) * max(1.0, float(want.abs().max())):
            return f"replaying {type(model.hf).__name__} is off by {error:.2g}"
    except (TypeError, RuntimeError, AttributeError, KeyError, IndexError) as problem:
        # whatever an unusual architecture trips over on the fast path, the plain one is right
        return f"{type(model.hf).__name__} cannot be replayed ({type(problem).__name__}: {problem})"
    return None


def _tolerance(model: Model) -> float:
    return EXACT if model.dtype in (torch.float32, torch.float64) else 0.1
