"""Measuring patched cells of one batch by replay, from any source, computing only the positions that a metric reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.compat.read_positions import Logits, Reached
from headlens.hooks.base_run import Base
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.suffix_run import SiteRun
from headlens.hooks.sweep import Fill, Pairs, Replayed

# What metrics make of logits [batch, pos, vocabulary]: [metric] or [metric, batch].
Evaluate = Callable[[Tensor], Tensor]
# Relative to its vector's largest entry: less than this is what two runs of equal tokens may differ in.
_ROUNDING = 1e-6
# Hidden scores are this large, or infinite.
_HIDDEN = 1e30


@dataclass(frozen=True, eq=False)
class Resourced(Replayed):
    """The engine on the runs of another, with a source of its own."""

    first: Replayed

    @property
    def base_logits(self) -> Float[Tensor, "prompt row token"]:
        # a copy, for a metric that writes into what it is given
        return self.first.base_logits.clone()

    @cached_property
    def base(self) -> Base:
        return self.first.base

    @cached_property
    def runs(self) -> tuple[SiteRun, SiteRun]:
        return self.first.runs


@dataclass(eq=False)
class Sweep:
    """Cells of one batch, of which nothing differs from the base run before position `start`.

    `earliest` is the first position whose logits are computed. Metrics are watched: when one reads an earlier position,
    the cells are run again with more positions, so that every number is made from what it reads.
    """

    model: Model
    tokens: Int[Tensor, "batch pos"]
    start: int
    site: str
    base_logits: Float[Tensor, "batch pos token"]
    evaluate: Evaluate
    earliest: int = field(init=False)
    unmoved: Tensor = field(init=False)
    watched: bool = field(init=False, default=True)
    _engine: Replayed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.earliest = self.tokens.shape[1] - 1
        while True:
            try:
                self.unmoved = self._measured(self.base_logits[:, self.earliest :].clone())
                return
            except Reached as reached:
                self.earliest = reached.first
            except Exception:
                # a metric may refuse a tensor of a class of its own
                if not self.watched:
                    raise
                self.watched, self.earliest = False, self.start

    def measured(self, fill: Fill, cells: Sequence[Cell], rows: Rows) -> Tensor:
        """What the metrics say with each cell's activation from `fill` at `rows`: [cell, metric (, batch)]."""
        while True:
            try:
                return self.engine(fill).patched(
                    cells, rows, lambda tails: torch.stack([self._measured(t) for t in tails])
                )
            except Reached as reached:
                self.earliest, self._engine = reached.first, None

    def engine(self, fill: Fill) -> Replayed:
        """The engine, which computes the logits from position `earliest` on."""
        if self._engine is None:
            read = Read(None, self.tokens.shape[1] - self.earliest)
            self._engine = Replayed(self.model, Pairs(self.tokens, self.tokens, self.start, read, self.site))
        return Resourced(self.model, replace(self._engine.pairs, fill=fill), self._engine)

    def _measured(self, tail: Float[Tensor, "batch last token"]) -> Tensor:
        logits = Logits(self.base_logits, tail, self.start)
        if not self.watched:
            return self.evaluate(logits.whole())
        try:
            values = self.evaluate(logits)
        except Exception:
            if logits.wanted is not None:
                raise Reached(logits.wanted) from None
            raise
        if logits.wanted is not None:
            raise Reached(logits.wanted)
        return values


def differing(own: Tensor, base: Tensor) -> Tensor:
    """Where `own` says something else than `base` (of the same shape), by more than rounding, as booleans."""
    size = base.abs().float()
    largest = size.masked_fill(size > _HIDDEN, 0).amax(-1, keepdim=True)
    # what is not a number is something else
    return ~((own == base) | ((own - base).abs() <= _ROUNDING * largest))


def first_differing(own: Mapping[int, Tensor], base: Mapping[int, Tensor], axis: int) -> int | None:
    """The first position, counted along `axis`, at which any layer differs; None if none does."""
    firsts = [int(found.nonzero()[0, 0]) for layer in own if (found := _along(own, base, layer, axis)).any()]
    return min(firsts, default=None)


def _along(own: Mapping[int, Tensor], base: Mapping[int, Tensor], layer: int, axis: int) -> Bool[Tensor, " pos"]:
    return differing(own[layer], base[layer]).movedim(axis, 0).flatten(1).any(1)


def filling(own: Mapping[int, Tensor], base: Mapping[int, Tensor]) -> Fill:
    """Each layer's `own` activation where it differs from `base`, and the engine's where it does not."""

    def fill(layer: int, engines: Tensor) -> Tensor:
        if layer not in own:
            return engines
        mine, its = (run[layer][: len(engines), -engines.shape[1] :] for run in (own, base))
        return torch.where(differing(mine, its), mine.to(engines), engines)

    return fill
