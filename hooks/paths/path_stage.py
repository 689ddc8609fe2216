"""One step of path patching: who receives, where, and past what."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from headlens.hooks.wiring import LOGITS, Node

Mlps = Literal["recomputed", "frozen"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of path patching: into which receivers, at which positions of every prompt, and past which MLPs.

    Positions are in ascending order, and none is before the one at which the two runs first differ. Where the logits
    receive it is END alone.
    """

    receivers: tuple[Node, ...]
    columns: tuple[int, ...]
    mlps: Mlps

    @property
    def into_logits(self) -> bool:
        return self.receivers[-1].kind == LOGITS

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that have receivers."""
        return tuple(sorted({node.layer for node in self.receivers}))

    def of_layer(self, layer: int) -> list[Node]:
        return [node for node in self.receivers if node.layer == layer]
