"""All heads of a group of prompts, layer by layer: the replay engine where it is exact, plain forwards elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.hooks.model import Model
from headlens.hooks.plain import plain_cells
from headlens.hooks.replay import Base, record_base, replay, run_from
from headlens.hooks.sites import Head, Site
from headlens.kernels.reference import head_delta

# Rows (cells x prompts x positions) that one replayed batch aims at: large enough for the full matrix-multiply rate,
# small enough that a block's activations stay in a CPU's cache.
ROWS = 768
# How far replayed logits of float32 may be from a plain forward's, relative to their size, before replay is given up.
EXACT = 1e-4


class Engine(ABC):
    """Patches heads of one layer in one group of prompts, and reads logits at the last position."""

    @property
    @abstractmethod
    def base_logits(self) -> Float[Tensor, "prompt token"]:
        """What the base run says of the `read` tokens."""

    @property
    @abstractmethod
    def source_logits(self) -> Float[Tensor, "prompt token"]:
        """What the source run says of them."""

    @abstractmethod
    def patched(self, layer: int, heads: Sequence[int], pos: int | None) -> Float[Tensor, "head prompt token"]:
        """Logits with the z of each of `heads` replaced by the source run's, at `pos` or (None) at every position."""


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

    def patched(self, layer: int, heads: Sequence[int], pos: int | None) -> Float[Tensor, "head prompt token"]:
        start = self.pairs.start if pos is None else pos
        out = self.base_logits.expand(len(heads), -1, -1).clone()
        if start < self.pairs.start:
            return out
        rows = slice(start - self.pairs.start, None if pos is None else start - self.pairs.start + 1)
        base, source = (z[layer][:, rows] for _, z in self.runs)
        # a head that says the same in both runs moves nothing
        differs = (base != source).flatten(3).any(3).any(1).any(0)
        moving = [index for index, head in enumerate(heads) if differs[head]]
        suffix = self.pairs.base.shape[1] - start
        at_once = max(1, ROWS // (len(base) * suffix))
        weights = self.model.layers[layer].output_weights(self.model.n_heads)
        for first in range(0, len(moving), at_once):
            some = moving[first : first + at_once]
            chosen = [heads[index] for index in some]
            delta = head_delta(source[:, :, chosen], base[:, :, chosen], weights[chosen])
            if pos is not None:
                delta = torch.nn.functional.pad(delta, (0, 0, 0, suffix - 1))
            out[some] = replay(self.model, self.base, layer, start, delta, self.pairs.read)
        return out


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

    def patched(self, layer: int, heads: Sequence[int], pos: int | None) -> Float[Tensor, "head prompt token"]:
        cells = [(Head(layer, head), pos) for head in heads]
        return plain_cells(self.model, self.pairs.base, self.source[1], cells, self.pairs.read)


def why_not_replayed(model: Model, pairs: Pairs) -> str | None:
    """None if the engine is exact on this model, else the reason; tried on real cells of one prompt."""
    if not model.towers["main"].is_causal:
        return f"{type(model.hf).__name__} is not causal"
    one = Pairs(pairs.base[:1], pairs.source[:1], pairs.start, pairs.read[:1])
    replayed, plain = Replayed(model, one), Plain(model, one)
    try:
        for layer, pos in ((0, None), (model.n_layers // 2, one.base.shape[1] - 1), (model.n_layers - 1, None)):
            got, want = (engine.patched(layer, [0], pos) for engine in (replayed, plain))
            error = float((got - want).abs().max())
            if error > _tolerance(model) * max(1.0, float(want.abs().max())):
                return f"replaying {type(model.hf).__name__} from layer {layer} is off by {error:.2g}"
    except (TypeError, RuntimeError, AttributeError, KeyError, IndexError) as problem:
        # whatever an unusual architecture trips over on the fast path, the plain one is right
        return f"{type(model.hf).__name__} cannot be replayed ({type(problem).__name__}: {problem})"
    return None


def _tolerance(model: Model) -> float:
    return EXACT if model.dtype in (torch.float32, torch.float64) else 0.1
