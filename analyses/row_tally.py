"""Sums over the attention rows of one run, which is all that is left of them when they have passed."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from headlens.analyses.row_readings import Part, Rows, Statistic
from headlens.analyses.rows_at_once import parts_at_once
from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention
from headlens.hooks.row_blocks import Block


@dataclass(eq=False)
class Total:
    """The sums and counts of one statistic in one layer, of all places met so far."""

    sums: Float[Tensor, "prompt head place"] | None = None
    counts: Int[Tensor, "prompt place"] | None = None

    def add(self, part: Part) -> None:
        self.sums = _added(self.sums, part.sums.double(), part.start)
        self.counts = _added(self.counts, part.counts, part.start)

    @property
    def places(self) -> int:
        return 0 if self.counts is None else self.counts.shape[-1]

    def means(self, places: int) -> Float32[np.ndarray, "prompt head place"]:
        """NaN where nothing was summed."""
        assert self.sums is not None and self.counts is not None  # the run went through this layer
        means = self.sums / self.counts[:, None]
        return nn.functional.pad(means, (0, places - means.shape[-1]), value=torch.nan).float().cpu().numpy()


@dataclass(frozen=True, eq=False)
class Tally:
    """The totals of a run's first `prompts` prompts; the same in another run may follow them. `look` and
    `at_once` are what a `Watch` calls."""

    statistics: Mapping[str, Statistic]
    prompts: int
    image_token: int | None
    totals: dict[tuple[str, int], Total] = field(default_factory=lambda: defaultdict(Total))

    def look(self, block: Block, pattern: Tensor) -> None:
        """Add a block of rows to every statistic of its layer."""
        other = pattern[self.prompts :] if len(pattern) > self.prompts else None
        rows = Rows(block, pattern[: self.prompts], other, self.image_token)
        for name, statistic in self.statistics.items():
            self.totals[name, block.layer].add(statistic.measure(rows))

    def at_once(self, call: Attention, layer: int, clock: Clock, key_start: int) -> bool:
        """Add all rows of a layer together, if that can be; `look` is for where it cannot."""
        parts = parts_at_once(self.statistics, self.prompts, self.image_token, call, layer, clock, key_start)
        for name, part in (parts or {}).items():
            self.totals[name, layer].add(part)
        return parts is not None

    def means(self, name: str, layers: int, length: int | None) -> Float32[np.ndarray, "prompt layer head place"]:
        """The statistic for each prompt: one number, or one for each of `length` tokens (None: of those met)."""
        totals = [self.totals[name, layer] for layer in range(layers)]
        about_tokens = len(self.statistics[name].dims) == 3
        places = length if about_tokens and length else max(total.places for total in totals)
        return np.stack([total.means(places) for total in totals], 1)


def _added(total: Tensor | None, part: Tensor, start: int) -> Tensor:
    end = start + part.shape[-1]
    total = part.new_zeros(*part.shape[:-1], end) if total is None else total
    total = nn.functional.pad(total, (0, max(0, end - total.shape[-1])))
    total[..., start:end] += part
    return total
