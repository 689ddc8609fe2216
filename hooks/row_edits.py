"""Edits of whole attention rows as frozen values: a temperature, a knock-out, a forced row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from headlens.hooks.edits import Heads, Pos, check_positions
from headlens.hooks.groups import as_group


@dataclass(frozen=True, eq=False)
class Temperature:
    """Multiply a head's attention scores by `tau`: 1 leaves it, more sharpens, 0 makes rows uniform.

    `tau` is a number, one number for each absolute position [pos], or a function from absolute positions [row] to tau
    [row], as in selective self-attention (2411.12892). A learned sink (gpt-oss) keeps its logit.
    """

    heads: Heads
    tau: float | Sequence[float] | Tensor | Callable[[Tensor], Tensor]
    pos: Pos = None

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if not callable(self.tau) or isinstance(self.tau, Tensor):
            _as_taus(self.tau)

    def of_rows(self, queries: Tensor) -> Tensor:
        """tau of the rows at these positions. ValueError where there is none, or a negative one."""
        if callable(self.tau) and not isinstance(self.tau, Tensor):
            taus = _as_taus(self.tau(queries)).to(queries.device)
            if taus.ndim and len(taus) != len(queries):
                raise ValueError(
                    f"Temperature's function gave {len(taus)} values of tau for {len(queries)} rows; it is given their "
                    "positions [row], and should return one number, or one for each."
                )
            return taus.expand(len(queries))
        taus = _as_taus(self.tau).to(queries.device)
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
    whose every key is cut is a ValueError under renorm, since nothing is left to divide by. An edge to a key that its
    row does not see (a later one) changes nothing.
    """

    heads: Heads
    edges: Sequence[tuple[int, int]] | Tensor = ()
    groups: Any = None
    policy: str = "renorm"
    pos: Pos = None

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if self.policy not in ("renorm", "raw"):
            raise ValueError(f"A knock-out has policy renorm or raw; {self.policy!r} was given.")
        object.__setattr__(self, "edges", _pairs(self.edges))
        if bool(self.edges) == (self.groups is not None):
            raise ValueError("A knock-out takes either edges=[(query, key), ...] or groups=, one of the two.")
        if self.groups is not None:
            object.__setattr__(self, "groups", as_group(self.groups))


@dataclass(frozen=True, eq=False)
class ForceRow:
    """Make the row at `pos` attend to `keys` and nothing else, to each equally (2310.08744 does so at END).

    `pos` is one position or one per prompt; `keys` is a group, such as [41, 45] or a [prompt, n] tensor of positions,
    of which those that the row sees count. A learned sink (gpt-oss) keeps its logit.
    """

    heads: Heads
    pos: Pos
    keys: Any

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if self.pos is None:
            raise ValueError("ForceRow needs pos=, the row to force: one position, or one for each prompt.")
        object.__setattr__(self, "keys", as_group(self.keys))


def _as_taus(given: Any) -> Tensor:
    """One tau, or one for each position or row."""
    try:
        taus = torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        taus = torch.tensor(torch.nan)
    if taus.ndim > 1 or not bool((taus >= 0).all()) or not bool(taus.isfinite().all()):
        raise ValueError(
            f"Temperature has tau={given!r}; expected finite numbers from 0: one, or one for each position."
        )
    return taus


def _pairs(edges: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = tuple((index(query), index(key)) for query, key in edges)
    except (TypeError, ValueError):
        pairs = ((-1, -1),)
    if any(min(pair) < 0 for pair in pairs):
        raise ValueError(f"Edges are pairs of positions from 0, [(query, key), ...]; {edges!r} was given.")
    return pairs
