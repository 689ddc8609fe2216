"""Path patching on the replay engine: what senders change in what receivers read, and what comes of that.

Two passes for all senders of a batch (2211.00593, 2310.08744). The first (`hooks/paths/frozen_run.py`) has the changed
positions as its only rows, frozen attention, and tells the receivers' query, key or value, or the logits. The second is
a replay in which cells enter at their first receivers' layer and receive again on their way up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.hooks.base_run import Base
from headlens.hooks.cells import Cell
from headlens.hooks.changes import Changes
from headlens.hooks.entering import Entry
from headlens.hooks.intercept import Listener
from headlens.hooks.model import Model
from headlens.hooks.output import first_tensor
from headlens.hooks.paths.frozen_run import at_columns, with_mlps, without_mlps
from headlens.hooks.paths.heard import Heard, Receiving, attention_of
from headlens.hooks.paths.path_stage import Stage
from headlens.hooks.replay import Wrapping, replay
from headlens.hooks.sites import Head
from headlens.hooks.sweep import Measure, Pairs, Replayed


@dataclass(frozen=True, eq=False)
class PathRun:
    """A stage on one group of prompts, by replay. `pairs` are of the site z."""

    runs: Replayed
    stage: Stage

    @classmethod
    def of(cls, model: Model, pairs: Pairs, stage: Stage) -> "PathRun":
        return cls(Replayed(model, pairs), stage)

    @property
    def base_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.runs.base_logits

    @property
    def other_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.runs.other_logits

    def patched(self, senders: Sequence[Head], measure: Measure) -> Float[Tensor, "sender prompt ..."]:
        """What `measure` makes of the logits [sender prompt 1 token] with the paths from each sender patched."""
        unmoved = measure(self.base_logits[None])
        out = unmoved.expand(len(senders), *unmoved.shape[1:]).clone()
        if not self.stage.columns:
            return out
        cells = [Cell.of_heads([sender]) for sender in senders]
        moving = [index for index, cell in enumerate(cells) if self._changes.moves(cell)]
        moving.sort(key=lambda index: cells[index].layer)

        def compute(some: list[int]) -> None:
            out[some] = measure(self._logits([cells[index] for index in some]))

        (prompts, length), start = self.runs.pairs.base.shape, self.stage.columns[0]
        alone = f"one sender of {prompts} prompts of {length} tokens"
        self.runs.machine.in_batches(moving, self.runs.limit(start), prompts * (length - start), compute, alone)
        return out

    @cached_property
    def _columns(self) -> Int[Tensor, " column"]:
        """The stage's positions, counted from where the two runs first differ."""
        return torch.tensor(self.stage.columns, device=self.runs.model.device) - self.runs.pairs.start

    @cached_property
    def _base(self) -> Base:
        return at_columns(self.runs.base, self._columns)

    @cached_property
    def _changes(self) -> Changes:
        columns, model = self._columns, self.runs.model
        base, source = ([z[:, columns] for z in each] for each in (self.runs.runs[0].kept, self.runs.source))
        where = torch.ones(len(self._base.tokens), len(columns), dtype=torch.bool, device=columns.device)
        return Changes(model, self._base, "z", base, source, where, 0, None)

    def _logits(self, cells: list[Cell]) -> Float[Tensor, "sender prompt row token"]:
        """The logits of senders in ascending order of layers."""
        if self.stage.into_logits:
            logits = self._frozen(cells, {})
            assert logits is not None  # they were asked for
            return logits
        prompts = len(self._base.tokens)
        heard = {layer: Heard.by(self.stage.of_layer(layer), prompts) for layer in self.stage.layers}
        self._frozen(cells, {layer: each for layer, each in heard.items() if cells[0].layer < layer})
        return self._received(cells, heard)

    def _frozen(self, cells: list[Cell], heard: dict[int, Heard]) -> Tensor | None:
        model, entries = self.runs.model, self._changes.entries(cells)
        positions = self._columns + self.runs.pairs.start
        hear = {layer: each.hear for layer, each in heard.items()}
        read = replace(self.runs.pairs.read, last=1) if self.stage.into_logits else None
        if self.stage.mlps == "recomputed":
            return with_mlps(model, self._base, entries, positions, hear, read)
        changes = torch.cat([self._added(layer, entry) for layer, entry in entries.items()])
        layers = [cell.layer for cell in cells]
        return without_mlps(model, self._base, layers, changes, positions, hear, read)

    def _added(self, layer: int, entry: Entry) -> Float[Tensor, "_cell prompt column d_model"]:
        """What cells add to the residual stream that the base run's attention does not, behind a post-norm if any."""
        parts, base = self.runs.model.layers[layer], first_tensor(self._base.layers[layer].attention_out)
        if parts.attention_addition is parts.output_projection:
            return entry.value - base
        # beside its cells, so that what is not changed cancels
        added = parts.attention_addition(torch.cat([base[None], entry.value]).flatten(0, 1))
        added = added.unflatten(0, (-1, len(base)))
        return added[1:] - added[:1]

    def _received(self, cells: list[Cell], heard: dict[int, Heard]) -> Float[Tensor, "sender prompt row token"]:
        """The logits where each cell's receivers are what they were told."""
        model, base, before = self.runs.model, self.runs.base, 0
        skip = int(self._columns[0])
        start, columns = base.start + skip, self._columns - skip
        entries: dict[int, Entry] = {}
        later: dict[int, Wrapping] = {}
        for layer in self.stage.layers:
            reached = sum(cell.layer < layer for cell in cells)
            if before:
                later[layer] = partial(_receiving, heard[layer].of_cells(slice(before)), columns)
            if reached > before:
                new = heard[layer].of_cells(slice(before, reached))
                with torch.no_grad():
                    value = attention_of(model.layers[layer], base.layers[layer], new, columns, start, skip)
                entries[layer] = Entry("attention", value)
            before = reached
        return replay(model, base, entries, start, replace(self.runs.pairs.read, last=1), later)


def _receiving(heard: Heard, columns: Tensor, listener: Listener) -> Listener:
    return Receiving(heard, columns, listener)
