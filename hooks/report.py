"""What recalibrations did in a run: which heads and rows they touched, how much attention moved, what rows sum to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headlens.hooks.row_blocks import Block
from headlens.hooks.sites import Head
from headlens.hooks.steps import Outcome, Step

if TYPE_CHECKING:
    import pandas


@dataclass
class HeadReport:
    """One head's rows, over all prompts and calls, padding left out."""

    rows: int = 0  # rows that the edits are about
    touched: int = 0  # rows whose attention changed
    moved: float = 0.0  # attention taken from keys, summed over rows; each row has 1 to give
    idle: int = 0  # rows left alone because nothing could receive
    lost: float = 0.0  # by how much rows sum to less than the model's own, summed over rows (policy raw)
    off: float = 0.0  # largest difference between a row's sum and what the policies promise


@dataclass(eq=False)
class Report:
    """Filled while the model runs: `with model.edited(edit, report=report): ...`.

    It is about the rows of these edits. What edits of a block around or inside do to the same rows is counted too.
    """

    heads: dict[Head, HeadReport] = field(default_factory=dict)

    def add(self, block: Block, outcome: Outcome, steps: Sequence[Step]) -> None:
        """Count one block of one layer."""
        about = torch.zeros_like(outcome.idle)
        for step in steps:
            about[:, block.places(step.heads)] |= step.rows(block)[:, None]
        before, after = block.pattern.detach(), outcome.pattern.detach()
        changed, sums = outcome.changed(block) & about, after.sum(-1)
        off = torch.where(about, (sums - outcome.promised).abs(), 0)
        columns = (
            _counted(about),
            _counted(changed),
            _summed((before - after).clamp(min=0).sum(-1), changed),
            _counted(outcome.idle & about),
            _summed(before.sum(-1) - sums, changed),
            off.amax((0, 2)).tolist(),
        )
        for head, rows, touched, moved, idle, lost, worst in zip(block.heads, *columns, strict=True):
            if rows:
                one = self.heads.setdefault(Head(block.layer, head), HeadReport())
                one.rows, one.touched, one.moved = one.rows + rows, one.touched + touched, one.moved + moved
                one.idle, one.lost, one.off = one.idle + idle, one.lost + lost, max(one.off, worst)

    def to_frame(self) -> "pandas.DataFrame":
        """A row per head: label, layer, head, rows, touched, idle, and the mean over touched rows of what moved and
        what was lost, and the largest deviation of a row's sum from what its policy promises."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "label": str(head),
                    "layer": head.layer,
                    "head": head.head,
                    "rows": one.rows,
                    "touched": one.touched,
                    "idle": one.idle,
                    "moved": one.moved / max(1, one.touched),
                    "lost": one.lost / max(1, one.touched),
                    "off": one.off,
                }
                for head, one in sorted(self.heads.items())
            ]
        )

    def described(self) -> str:
        """The same over all heads, in a sentence or two."""
        every = self.heads.values()
        rows, touched, idle = (sum(getattr(one, name) for one in every) for name in ("rows", "touched", "idle"))
        moved, lost = (sum(getattr(one, name) for one in every) / max(1, touched) for name in ("moved", "lost"))
        some = sum(one.touched > 0 for one in every)
        worst = max((one.off for one in every), default=0.0)
        nothing = f" {idle} rows had nothing to receive and were left alone." if idle else ""
        less = f" and {lost:.1%} was lost" if abs(lost) > 1e-6 else ""
        return (
            f"{touched} of {rows} rows of {some} of {len(self.heads)} heads changed; of a changed row's attention "
            f"{moved:.1%} moved{less} on average. Rows sum to what is promised within {worst:.1e}.{nothing}"
        )


def _counted(which: Tensor) -> list[int]:
    return which.sum((0, 2)).tolist()


def _summed(amount: Tensor, where: Tensor) -> list[float]:
    return torch.where(where, amount, 0).sum((0, 2), dtype=torch.float64).tolist()
