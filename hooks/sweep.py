"""The sweep engine: patched cells of a group of prompts, by replay."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.hooks.base_run import Base, record_base
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.changes import Changes
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.replay import replay
from headlens.hooks.suffix_run import SiteRun, run_from

# Rows (cells x prompts x positions) that one replayed batch aims at: large enough for the full matrix-multiply rate,
# small enough that a block's activations stay in a CPU's cache.
ROWS = 1536
# Logits (cells x prompts x tokens) that one batch may have.
_LOGITS = 2**24
# The source activation of a layer, given the base run's for its shape: the first so many prompts, the last so many
# positions.
Fill = Callable[[int, Tensor], Tensor]
# Turns logits [cell prompt row token] into whatever is wanted of them, [cell prompt ...].
Measure = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Same-length prompts in two runs that agree before `start`: `base` is patched at `site`, from `other`.

    With `fill` the source is not the other run but what `fill` makes.
    """

    base: Int[Tensor, "prompt pos"]
    other: Int[Tensor, "prompt pos"]
    start: int
    read: Read
    site: str = "z"
    fill: Fill | None = None


class Engine(ABC):
    """Patches cells in one group of prompts, and reads logits at the last positions."""

    @property
    @abstractmethod
    def base_logits(self) -> Float[Tensor, "prompt row token"]:
        """What the base run says of the tokens that are read."""

    @property
    @abstractmethod
    def other_logits(self) -> Float[Tensor, "prompt row token"]:
        """What the other run says of them."""

    @abstractmethod
    def patched(self, cells: Sequence[Cell], rows: Rows, measure: Measure) -> Float[Tensor, "cell prompt ..."]:
        """What `measure` makes of the logits with each cell's activation replaced by the source's at `rows`."""


@dataclass(frozen=True, eq=False)
class Replayed(Engine):
    """The replay engine on one group of prompts."""

    model: Model
    pairs: Pairs

    @cached_property
    def base(self) -> Base:
        return record_base(self.model, self.pairs.base, self.pairs.start)

    @cached_property
    def runs(self) -> tuple[SiteRun, SiteRun]:
        """The base run and the other run, computed alike: equal inputs, equal bits."""
        base, other = (
            run_from(self.model, self.base, tokens, self.pairs.site, self.pairs.read)
            for tokens in (self.pairs.base, self.pairs.other)
        )
        return base, other

    @property
    def base_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.runs[0].logits

    @property
    def other_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.runs[1].logits

    @cached_property
    def source(self) -> tuple[Tensor, ...]:
        """Each layer's source activation at the site, from `pairs.start` on."""
        base, other = self.runs
        fill = self.pairs.fill
        return other.kept if fill is None else tuple(fill(layer, kept) for layer, kept in enumerate(base.kept))

    def patched(self, cells: Sequence[Cell], rows: Rows, measure: Measure) -> Float[Tensor, "cell prompt ..."]:
        unmoved = measure(self.base_logits[None])
        out = unmoved.expand(len(cells), *unmoved.shape[1:]).clone()
        where = rows.chosen.to(self.model.device)[:, self.pairs.start :]
        if not where.any():
            return out
        # nothing changes before the first patched position, so cells start there
        skip = int(where.any(0).nonzero()[0, 0])
        start, where = self.pairs.start + skip, where[:, skip:]
        changes = Changes(self.model, self.base, self.pairs.site, self.runs[0].kept, self.source, where, skip, rows.key)
        moving = [index for index, cell in enumerate(cells) if changes.moves(cell)]
        moving.sort(key=lambda index: cells[index].layer)
        prompts, length = self.pairs.base.shape
        tokens = self.base_logits.shape[1:].numel()
        limit = max(1, min(ROWS // (prompts * (length - start)), _LOGITS // (prompts * tokens)))
        reached = replace(self.pairs.read, last=min(self.pairs.read.last, length - start))
        earlier = self.base_logits[None, :, : self.pairs.read.last - reached.last]
        for some in _batches(moving, limit):
            chosen = [cells[index] for index in some]
            logits = replay(self.model, self.base, changes.entries(chosen), start, reached, changes.later(chosen))
            out[some] = measure(torch.cat([earlier.expand(len(some), -1, -1, -1), logits], 2))
        return out


def _batches(items: list[int], limit: int) -> list[list[int]]:
    """As few lists as none needs more than `limit` items, of nearly equal length: a short one would waste the rate."""
    count = -(-len(items) // limit)
    return [items[at * len(items) // count : (at + 1) * len(items) // count] for at in range(count)]
