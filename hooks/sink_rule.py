"""Which keys of a head are attention sinks: tokens that many rows attend to far more than to the average key.

The Attention Calibration Technique (2406.15765) calls key j a sink of a head when its column mean, the attention it
receives per row that can see it, exceeds alpha / T. That looks at rows behind the one being changed, and at no cached
step can it be had. So there are three modes:

- `prefill_column`: the paper's. The mean is over all rows of the prompt, T its length (or the
  window's, where that is shorter). Not causal.
- `causal_column`: at row i the mean is over rows up to i, T is what row i sees. The same in prefill and decode.
- `row`: row i's own attention exceeds alpha / T, T as before. Causal, without memory.

A column that few rows see so far has a large mean by chance, and every local head's newest keys do; so a sink must
have been seen by `min_rows` rows and by `min_share` of the T rows (2406.15765's code has no such guard). The first
token is left out unless `first`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.hooks.nearest import did_you_mean
from headlens.hooks.row_blocks import Block

MODES = ("prefill_column", "causal_column", "row")


@dataclass(frozen=True)
class SinkRule:
    """When a key is a sink of a head; `threshold` is absolute and takes the place of alpha / T."""

    mode: str = "causal_column"
    alpha: float = 5.0
    threshold: float | None = None
    min_rows: int = 16
    min_share: float = 0.2
    first: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(
                f"Unknown sink mode {self.mode!r}{did_you_mean(self.mode, MODES)}; the modes are {', '.join(MODES)}."
            )
        bound = self.alpha if self.threshold is None else self.threshold
        if not 0 < bound < float("inf"):
            raise ValueError(
                f"A sink rule was given {'alpha' if self.threshold is None else 'threshold'}={bound}; "
                "expected a positive number, such as alpha=5 (times the average) or threshold=0.1."
            )
        if self.min_rows < 1 or not 0 <= self.min_share < 1:
            raise ValueError(
                f"min_rows={self.min_rows} and min_share={self.min_share} were given; expected at least "
                "1 row, and a share from 0 up to below 1."
            )

    def plain(self) -> dict[str, Any]:
        """The rule as plain values; alpha is left out where a threshold takes its place."""
        idle = "threshold" if self.threshold is None else "alpha"
        return {name: value for name, value in vars(self).items() if name != idle}

    def evidence(self, block: Block, memory: dict[str, Any]) -> "Evidence":
        """What the rule looks at in this block. Blocks of a run must come in order, each with the same `memory`."""
        match self.mode:
            case "row":
                return self._of_rows(block)
            case "causal_column":
                return self._so_far(block, memory)
            case _:
                return self._of_prompt(block, memory)

    @property
    def of_whole_prompts(self) -> bool:
        """Whether a head's sinks are the same keys for every row that sees them."""
        return self.mode == "prefill_column"

    def of_columns(self, block: Block, sums: Tensor, rows: Tensor) -> "Evidence":
        """What mode `prefill_column` makes of the attention that each key is given by all rows of a prompt together,
        and of how many of them see it, [batch, head, key] each; for keys of the block, which are its first ones."""
        given, seeing = (total[:, :, None, : len(block.keys)] for total in (sums, rows))
        return self._evidence(block, given / seeing.clamp(min=1), seeing, rows.amax(-1)[:, :, None, None])

    def _evidence(self, block: Block, received: Tensor, rows: Tensor, seen: Tensor) -> "Evidence":
        bound = self.alpha / seen if self.threshold is None else torch.full_like(seen, self.threshold)
        old = rows >= torch.maximum(self.min_share * seen, torch.full_like(seen, self.min_rows))
        # batch, head, row, key
        allowed = torch.ones_like(old) if self.first else (block.keys != block.first_key)[:, None, None]
        return Evidence(received, bound, (received > bound) & old & allowed & block.visible)

    def _of_rows(self, block: Block) -> "Evidence":
        age = (block.queries[:, None] - block.keys + 1)[None, None]
        return self._evidence(block, block.pattern, age, _seen(block))

    def _so_far(self, block: Block, memory: dict[str, Any]) -> "Evidence":
        (added, counted), start = _columns(block), int(block.keys[0])
        sums, rows = added.cumsum(2), counted.cumsum(2)
        if "sums" in memory:
            kept, before = memory["sums"], memory["rows"]
            shared = slice(start, min(kept.shape[-1], start + sums.shape[-1]))
            sums[..., : shared.stop - start] += kept[:, :, None, shared]
            rows[..., : shared.stop - start] += before[:, :, None, shared]
        memory["sums"], memory["rows"] = _kept(memory.get("sums"), sums, start), _kept(memory.get("rows"), rows, start)
        return self._evidence(block, sums / rows.clamp(min=1), rows, _seen(block))

    def _of_prompt(self, block: Block, memory: dict[str, Any]) -> "Evidence":
        if block.clock.past:
            raise ValueError(
                "Sinks of mode 'prefill_column' depend on all rows of a prompt, later ones too, so they cannot be had "
                "in a cached decode step; use mode 'causal_column' or 'row', which are the same in prefill and decode."
            )
        if "totals" not in memory:
            totals: list[Tensor] = []
            for one in block.again():
                for at, part in enumerate(_columns(one)):
                    summed = part.sum(2)
                    if len(totals) < 2:
                        totals.append(summed)
                    else:
                        known = totals[at]
                        totals[at] = torch.cat([known, torch.zeros_like(summed[..., known.shape[-1] :])], -1)
                        totals[at][..., : summed.shape[-1]] += summed
            memory["totals"] = totals
        sums, rows = memory["totals"]
        return self.of_columns(block, sums, rows)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What each row knows of each key: attention received (a mean over rows, or the row's own), and the bound."""

    received: Float[Tensor, "batch head #row key"]
    bound: Float[Tensor, "batch head #row 1"]
    sink: Bool[Tensor, "batch head row key"]


def _seen(block: Block) -> Float[Tensor, "batch head row 1"]:
    """How many keys each row sees."""
    return block.visible.sum(-1, keepdim=True).to(block.scores.dtype)


def _columns(block: Block) -> tuple[Tensor, Tensor]:
    """Each real row's attention, and 1 where it sees the key."""
    real = block.real[:, None, :, None]
    # without gradients: sums would keep every block's graph, and what comes of them are booleans
    return torch.where(real, block.pattern.detach(), 0), (block.visible & real).to(block.scores.dtype)


def _kept(before: Tensor | None, so_far: Tensor, start: int) -> Tensor:
    """Sums by absolute position, brought up to the block's last row."""
    last = so_far[:, :, -1]
    length = start + last.shape[-1]
    kept = last.new_zeros(*last.shape[:2], length)
    if before is not None:
        kept = torch.cat([before, kept[..., before.shape[-1] :]], -1)
    kept[..., start:length] = last
    return kept
