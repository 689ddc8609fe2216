"""What recalibrated attention takes beside queries, keys and values, and what it gives back."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

MOST_GROUPS = 4
# Places of donors and receivers among the groups of a transfer.
DONORS, RECEIVERS = 1, 2


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group each key belongs to, from 0 up to before `count`. The newest `recent[0]` keys up to a row's own
    position are in the group `recent[1]`, whatever the index says."""

    index: UInt8[Tensor, "#batch #head #row key"]
    count: int
    recent: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_GROUPS:
            raise ValueError(f"{self.count} groups of keys were given; expected 1 to {MOST_GROUPS}.")

    def each(self, past: int, rows: int) -> UInt8[Tensor, "#batch #head #row key"]:
        """The group of each key as each row sees it; row i stands at key `past` + i."""
        if self.recent is None:
            return self.index
        newest, group = self.recent
        at = torch.arange(past, past + rows, device=self.index.device)[:, None]
        ago = at - torch.arange(self.index.shape[-1], device=self.index.device)
        return torch.where((ago >= 0) & (ago < newest), group, self.index).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Change:
    """s' = tau * s + log m_g, then donors keep `beta`, then kappa_g, then gamma (see `headlens.kernels.algebra`).

    Each is None where it is neutral, and has 1 at rows that it leaves alone. Donors are group 1, receivers group 2.
    """

    tau: Float[Tensor, "#batch #head #row"] | None = None
    multipliers: Float[Tensor, "#batch #head #row group"] | None = None
    beta: Float[Tensor, "#batch #head #row"] | None = None
    kappa: Float[Tensor, "#batch #head #row group"] | None = None
    gamma: Float[Tensor, "#batch #head #row"] | None = None


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """What heads say under a change, and how their rows were before it.

    `masses` and `lse` are of the tempered row before any other change: each group's share of it (a learned sink has the
    rest), and the natural logarithm of what softmax divides by, the learned sink included (for a row that sees no key
    the sink alone, or -inf). `idle` rows had something to give and nothing to receive it. `emptied` rows are left no
    key by multipliers of 0 (the kernel counts among them rows whose keys have less attention beside the cut ones than
    float32 can hold). A row that sees no key, or is left none, says 0.
    """

    z: Float[Tensor, "batch row head d_value"]
    masses: Float[Tensor, "batch head row group"]
    lse: Float[Tensor, "batch head row"]
    idle: Bool[Tensor, "batch head row"]
    emptied: Bool[Tensor, "batch head row"]
