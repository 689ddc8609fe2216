"""The sweep engine: patched cells of a group of prompts, by replay."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.hooks.base_run import Base, record_base
from headlens.hooks.captured import Captured
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.changes import Changes
from headlens.hooks.entering import Entry, Place
from headlens.hooks.halving import within_memory
from headlens.hooks.machine import Machine, capturing
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.replay import replay
from headlens.hooks.room import rows_that_fit
from headlens.hooks.scattered import Scattered, scattered
from headlens.hooks.spread import device_of
from headlens.hooks.suffix_run import SiteRun, run_from

# Rows (cells x prompts x positions) that one replayed batch aims at on a CPU: large enough for the full
# matrix-multiply rate, small enough that a block's activations stay in its cache.
ROWS = 1536
# Logits (cells x prompts x tokens) that one batch may have there.
_LOGITS = 2**24
# A pass of more than this part of a GPU's memory keeps the GPU busy, and is not captured.
_SMALL = 1 / 16
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
    machine: Machine = field(default_factory=Machine, kw_only=True)

    @cached_property
    def base(self) -> Base:
        with within_memory(self._prompts):
            return record_base(self.model, self.pairs.base, self.pairs.start)

    @cached_property
    def runs(self) -> tuple[SiteRun, SiteRun]:
        """The base run and the other run, computed alike: equal inputs, equal bits."""
        with within_memory(self._prompts):
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

    @cached_property
    def devices(self) -> tuple[torch.device, ...]:
        """Where each layer computes."""
        return tuple(device_of(layer.block) for layer in self.model.layers)

    @cached_property
    def captured(self) -> Captured | None:
        """Passes that recur on this group; they read its base run, and end with it."""
        return capturing(self.model, self.machine)

    def patched(self, cells: Sequence[Cell], rows: Rows, measure: Measure) -> Float[Tensor, "cell prompt ..."]:
        unmoved = measure(self.base_logits[None])
        out = unmoved.expand(len(cells), *unmoved.shape[1:]).clone()
        where = rows.chosen[:, self.pairs.start :]
        if not where.any():
            return out
        # nothing changes before the first patched position, so cells start there
        skip = int(where.any(0).nonzero()[0, 0])
        start, where = self.pairs.start + skip, where[:, skip:]
        changes = scattered(self.devices, partial(self._changes, where, skip, rows.key))
        moving = [index for index, cell in enumerate(cells) if changes.moves(cell)]
        moving.sort(key=lambda index: cells[index].layer)
        reached = replace(self.pairs.read, last=min(self.pairs.read.last, self.pairs.base.shape[1] - start))
        earlier = self.base_logits[None, :, : self.pairs.read.last - reached.last]
        limit = self.limit(start)

        def compute(some: list[int]) -> None:
            small = len(some) <= max(1, _SMALL * limit)
            logits = self._replayed(changes, [cells[index] for index in some], start, reached, small)
            out[some] = measure(torch.cat([earlier.expand(len(some), -1, -1, -1), logits], 2))

        of_cell = self.pairs.base[:, start:].numel()
        self.machine.in_batches(moving, limit, of_cell, compute, f"one patched cell of {self._prompts}")
        return out

    def _changes(self, where: Tensor, skip: int, key: int | None, device: torch.device) -> Changes:
        from_base = self.runs[0].kept
        return Changes(self.model, self.base, self.pairs.site, from_base, self.source, where.to(device), skip, key)

    def limit(self, start: int) -> int:
        """How many cells one batch from `start` on may have."""
        prompts, length = self.pairs.base.shape
        of_cell, tokens = prompts * (length - start), self.base_logits.shape[1:].numel()
        rows = rows_that_fit(self.model, length, length - start, tokens / (length - start))
        limits = [ROWS // of_cell, _LOGITS // (prompts * tokens)] if rows is None else [rows // of_cell]
        return max(1, min(limits))

    def _replayed(
        self, changes: Changes | Scattered, cells: list[Cell], start: int, read: Read, small: bool
    ) -> Float[Tensor, "cell prompt row token"]:
        """What all these cells come to; as a captured pass where it recurs and leaves the machine idle (`small`).

        Passes recur where a pattern's entries are patched one by one: each has the same cells from the same row on.
        """
        entries, later = changes.entries(cells), changes.later(cells)
        if later or self.captured is None or not small:
            return replay(self.model, self.base, entries, start, read, later)
        places: list[tuple[int, Place]] = [(layer, entry.place) for layer, entry in entries.items()]

        def run(*values: Tensor) -> Tensor:
            entering = {layer: Entry(place, value) for (layer, place), value in zip(places, values, strict=True)}
            return replay(self.model, self.base, entering, start, read, {})

        return self.captured((start, *places), run, tuple(entry.value for entry in entries.values()))

    @property
    def _prompts(self) -> str:
        prompts, length = self.pairs.base.shape
        return f"{prompts} prompts of {length} tokens"
