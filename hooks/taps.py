"""Taps: functions that see, and may replace, the tensor at one site while a model runs.

Every edit, recording and user hook becomes taps, or, where it is about whole rows of attention, steps of the
recalibration algebra (`hooks/steps.py`). `hooks/tapped.py` installs them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from headlens.hooks.sites import Site


@dataclass(frozen=True)
class Where:
    """What a tap is told: the site, and which absolute positions the first row and first key stand for.

    In a plain forward both are 0; in a cached decode step `query_start` is the number of tokens already read, and
    with a sliding-window cache `key_start` is the position of the oldest key that is left. `ctx` is a dict that a
    hook may keep things in for the length of the run.
    """

    site: Site
    query_start: int = 0
    key_start: int = 0
    ctx: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.site)

    def layer(self) -> int:
        return self.site.layer


# Returns the tensor to go on with, or None if there was nothing for it to do here.
TapFunction = Callable[[Tensor, Where], Tensor | None]


@dataclass(frozen=True, eq=False)
class Tap:
    """One function at one site; `fired` gains an entry each time it really acted. One that `observes` only looks."""

    site: Site
    function: TapFunction
    asked_by: str
    observes: bool = False
    fired: list[bool] = field(default_factory=list)
    ctx: dict[str, Any] = field(default_factory=dict)

    def __call__(self, tensor: Tensor, query_start: int, key_start: int) -> Tensor:
        answer = self.function(tensor, Where(self.site, query_start, key_start, self.ctx))
        if answer is None:
            return tensor
        self.fired.append(True)
        if answer.shape != tensor.shape:
            raise ValueError(
                f"{self.asked_by} returned a tensor of shape {tuple(answer.shape)} at {self.site}, "
                f"where {tuple(tensor.shape)} ({' '.join(self.site.axes)}) was expected."
            )
        return answer.to(tensor.dtype)
