"""One whole forward per cell: the plain way to patch, which the replay engine must equal.

Tests compare the engine with it, and a sweep falls back on it for a model that cannot be replayed exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.hooks.cells import Cell, Rows
from headlens.hooks.edits import Call
from headlens.hooks.machine import Machine
from headlens.hooks.model import Model
from headlens.hooks.sites import SITE_AXES, Site
from headlens.hooks.sweep import Engine, Measure, Pairs
from headlens.hooks.taps import Where


@dataclass(frozen=True, eq=False)
class Plain(Engine):
    """One whole forward per cell: of all prompts at once, or of as many as a GPU's memory lets."""

    model: Model
    pairs: Pairs
    machine: Machine = field(default_factory=Machine, kw_only=True)

    @cached_property
    def base_run(self) -> tuple[Tensor, list[Tensor]]:
        """The logits that are read, and each layer's activation at the site, of the base run."""
        return self._run(self.pairs.base)

    @cached_property
    def other_run(self) -> tuple[Tensor, list[Tensor]]:
        """The same of the other run."""
        return self._run(self.pairs.other)

    def _run(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        site, last = self.pairs.site, self.pairs.read.last

        def run(some: slice) -> list[Tensor]:
            logits, kept = self.model.record(tokens[some], names_filter=site, budget=None, logits_to_keep=last)
            return [self._read(logits, some), *(kept[str(Site(site, layer))] for layer in range(self.model.n_layers))]

        logits, *activations = map(_joined, zip(*self._of_prompts(run), strict=True))
        return logits, activations

    @property
    def base_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.base_run[0]

    @property
    def other_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.other_run[0]

    def patched(self, cells: Sequence[Cell], rows: Rows, measure: Measure) -> Float[Tensor, "cell prompt ..."]:
        measured = []
        for cell in cells:
            run = partial(self._edited, cell, [self._source(layer) for layer, _ in cell.parts], rows)
            measured.append(measure(_joined(self._of_prompts(run))[None]))
        return torch.cat(measured)

    def _edited(self, cell: Cell, sources: Sequence[Tensor], rows: Rows, some: slice) -> Tensor:
        site, edits = self.pairs.site, []
        for (layer, heads), source in zip(cell.parts, sources, strict=True):
            exchange = partial(_exchange, site, source[some], heads, rows.chosen[some], rows.key)
            edits.append(Call(str(Site(site, layer)), exchange))
        with self.model.edited(*edits):
            return self._read(self.model(self.pairs.base[some], logits_to_keep=self.pairs.read.last), some)

    def _of_prompts(self, run: Callable[[slice], Any]) -> list[Any]:
        """What `run` makes of all prompts, in their order: all together, or part by part where memory runs out."""
        (prompts, length), parts = self.pairs.base.shape, []

        def do(some: list[int]) -> None:
            parts.append(run(slice(some[0], some[-1] + 1)))

        alone = f"a whole forward of one prompt of {length} tokens"
        with torch.no_grad():
            self.machine.in_batches([*range(prompts)], prompts, length, do, alone)
        return parts

    def _read(self, logits: Tensor, prompts: slice) -> Float[Tensor, "prompt row token"]:
        """The logits that are read, out of those that came."""
        last, tokens = logits[:, -self.pairs.read.last :], self.pairs.read.tokens
        return last if tokens is None else last.gather(2, tokens[prompts, None].expand(-1, last.shape[1], -1))

    def _source(self, layer: int) -> Tensor:
        if self.pairs.fill is None:
            return self.other_run[1][layer]
        return self.pairs.fill(layer, self.base_run[1][layer])


def _exchange(
    site: str,
    source: Tensor,
    heads: tuple[int, ...],
    chosen: Bool[Tensor, "prompt pos"],
    key: int | None,
    tensor: Tensor,
    hook: Where,
) -> Tensor:
    chosen = chosen.to(tensor.device)
    if SITE_AXES[site][1] == "head":
        keys = slice(None) if key is None else slice(key, key + 1)
        for head in heads:
            tensor[:, head, :, keys][chosen] = source[:, head, :, keys][chosen]
    elif heads:
        for head in heads:
            tensor[:, :, head][chosen] = source[:, :, head][chosen]
    else:
        tensor[chosen] = source[chosen]
    return tensor


def _joined(parts: Sequence[Tensor]) -> Tensor:
    # one part is not copied: it may fill much of the memory
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
