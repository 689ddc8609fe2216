"""Edits of whole attention rows as frozen values: a temperature, a knock-out, a forced row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headlens.hooks.edits import Heads, Positions, check_positions
from headlens.hooks.groups import as_group


@dataclass(frozen=True, eq=False)
class Temperature:
    """Multiply a head's attention scores by `tau`: 1 leaves it, more sharpens, 0 makes rows uniform.

    `tau` is a number, one number for each absolute position [pos], or a function from absolute positions [row] to tau
    [row], as in selective self-attention (2411.12892).
    """

    heads: Heads
    tau: float | Sequence[float] | Tensor | Callable[[Tensor], Tensor]
    pos: Positions = None

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if not callable(self.tau) or isinstance(self.tau, Tensor):
            _check_taus(torch.as_tensor(self.tau, dtype=torch.float32))

    def of_rows(self, queries: Tensor) -> Tensor:
        """tau of the rows at these positions. ValueError where there is none, or a negative one."""
        if callable(self.tau) and not isinstance(self.tau, Tensor):
            return _check_taus(self.tau(queries).expand(len(queries)).float())
        taus = torch.as_tensor(self.tau, dtype=torch.float32, device=queries.device)
        if taus.ndim == 0:
            return taus.expand(len(queries))
        if int(queries[-1]) >= len(taus):
            raise ValueError(
                f"Temperature has {len(taus)} values of tau and the run reached position "
                f"{int(queries[-1])}; give a value for each position, or a function of positions."
            )
        return taus[queries]


@dataclass(frozen=True, eq=False)
class KnockOut:
    """Cut attention: single `edges` (query, key) of absolute positions, or whole `groups` of keys.

    With policy renorm the row's other keys take what is cut; with raw nobody does. The results differ, so choose. A row
    whose every key is cut is a ValueError under renorm, since nothing is left to divide by.
    """

    heads: Heads
    edges: Sequence[tuple[int, int]] = ()
    groups: Any = None
    policy: str = "renorm"
    pos: Positions = None

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if self.policy not in ("renorm", "raw"):
            raise ValueError(f"A knock-out has policy renorm or raw; {self.policy!r} was given.")
        if bool(len(self.edges)) == (self.groups is not None):
            raise ValueError("A knock-out takes either edges=[(query, key), ...] or groups=, one of the two.")
        if any(len(edge) != 2 or min(edge) < 0 for edge in self.edges):
            raise ValueError(f"Edges are pairs (query, key) of positions from 0; {list(self.edges)!r} was given.")
        if self.groups is not None:
            object.__setattr__(self, "groups", as_group(self.groups))


@dataclass(frozen=True, eq=False)
class ForceRow:
    """Make the row at `pos` attend to `keys` and nothing else, to each equally (2310.08744 does so at END).

    `pos` is one position or one per prompt; `keys` is a group, such as [41, 45] or a [prompt, n] tensor of positions.
    """

    heads: Heads
    pos: Positions
    keys: Any

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if self.pos is None:
            raise ValueError("ForceRow needs pos=, the row to force: one position, or one for each prompt.")
        object.__setattr__(self, "keys", as_group(self.keys))


def _check_taus(taus: Tensor) -> Tensor:
    if not bool((taus >= 0).all()) or not bool(taus.isfinite().all()) or taus.ndim > 1:
        raise ValueError(
            f"Temperature has tau={taus.tolist()}; expected finite numbers from 0: one, or one a position."
        )
    return taus
