"""One whole forward per cell: the plain way to patch, which the replay engine must equal.

Tests compare the engine with it, and a sweep falls back on it for a model that cannot be replayed exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.hooks.cells import Cell, Rows
from headlens.hooks.edits import Call
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.sites import SITE_AXES, Site
from headlens.hooks.sweep import Engine, Measure, Pairs
from headlens.hooks.taps import Where


@dataclass(frozen=True, eq=False)
class Plain(Engine):
    """One whole forward per cell."""

    model: Model
    pairs: Pairs

    @cached_property
    def base_run(self) -> tuple[Tensor, list[Tensor]]:
        """Logits, and each layer's activation at the site, of the base run."""
        return self._run(self.pairs.base)

    @cached_property
    def other_run(self) -> tuple[Tensor, list[Tensor]]:
        """The same of the other run."""
        return self._run(self.pairs.other)

    def _run(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            logits, kept = self.model.record(
                tokens, names_filter=self.pairs.site, budget=None, logits_to_keep=self.pairs.read.last
            )
        activations = [kept[str(Site(self.pairs.site, layer))] for layer in range(self.model.n_layers)]
        return logits[:, -self.pairs.read.last :], activations

    @property
    def base_logits(self) -> Float[Tensor, "prompt row token"]:
        return _of_tokens(self.base_run[0], self.pairs.read)

    @property
    def other_logits(self) -> Float[Tensor, "prompt row token"]:
        return _of_tokens(self.other_run[0], self.pairs.read)

    def patched(self, cells: Sequence[Cell], rows: Rows, measure: Measure) -> Float[Tensor, "cell prompt ..."]:
        site, chosen, measured = self.pairs.site, rows.chosen, []
        for cell in cells:
            edits = [
                Call(str(Site(site, layer)), partial(_exchange, site, self._source(layer), heads, chosen, rows.key))
                for layer, heads in cell.parts
            ]
            with torch.no_grad(), self.model.edited(*edits):
                logits = self.model(self.pairs.base, logits_to_keep=self.pairs.read.last)[:, -self.pairs.read.last :]
            measured.append(measure(_of_tokens(logits, self.pairs.read)[None]))
        return torch.cat(measured)

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


def _of_tokens(logits: Float[Tensor, "prompt row vocabulary"], read: Read) -> Float[Tensor, "prompt row token"]:
    """The logits that are read, out of those of the whole vocabulary."""
    if read.tokens is None:
        return logits
    return logits.gather(2, read.tokens[:, None].expand(-1, logits.shape[1], -1))
