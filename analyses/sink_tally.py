"""What a sink rule finds in one layer, summed over rows block by block, so that memory stays linear in length."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headlens.hooks.row_blocks import Block
from headlens.hooks.sink_rule import SinkRule


@dataclass(eq=False)
class SinkTally:
    """Sums over the real rows that were looked at, for every key; `look` is the function of a `Watch`."""

    rule: SinkRule
    sums: Float[Tensor, "3 batch head key"] | None = None
    most: Float[Tensor, "batch head key"] | None = None
    memory: dict[str, Any] = field(default_factory=dict)  # the rule's own, between blocks

    def look(self, block: Block, pattern: Tensor) -> None:
        """Add a block of rows; blocks come in order. The rule reads attention as the model has it, before edits."""
        real = block.real[:, None, :, None]
        evidence = self.rule.evidence(block, self.memory)
        sink = evidence.sink & real
        attention = torch.where(real, block.pattern, 0)
        sums = torch.stack([part.sum(2).to(attention.dtype) for part in (block.visible & real, sink, attention)])
        times = torch.where(sink, evidence.received / evidence.bound, 0).amax(2)
        self.sums, self.most = _reaching(self.sums, sums, block), _reaching(self.most, times, block)
        self.sums[..., block.keys] += sums
        self.most[..., block.keys] = torch.maximum(self.most[..., block.keys], times)

    def of_keys(self, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Float32 [batch, head, key] of `length` keys: rows that see the key, those in which it is a sink, attention
        received in all of them, and how many times the bound its evidence was at most where it is a sink."""
        assert self.sums is not None and self.most is not None  # the run went through this layer
        missing = (0, length - self.sums.shape[-1])
        rows, flagged, received = nn.functional.pad(self.sums, missing).float().cpu()
        return rows, flagged, received, nn.functional.pad(self.most, missing).float().cpu()


def _reaching(total: Tensor | None, part: Tensor, block: Block) -> Tensor:
    """The total with room, zeros, for all keys of the block."""
    total = part.new_zeros(*part.shape[:-1], 0) if total is None else total
    return nn.functional.pad(total, (0, max(0, int(block.keys[-1]) + 1 - total.shape[-1])))
