"""Leaving a block once a part of it is known: its output is kept, and the rest is not computed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import Tensor, nn

from headlens.hooks.intercept import Attention, Listener
from headlens.hooks.output import first_tensor


class Left(Exception):
    """Leaves a block; to be suppressed around its call."""


def telling(hear: Callable[[Attention], Any]) -> Listener:
    """An attention's listener that tells what it reads, its query, key and value, and leaves."""

    def listen(module: nn.Module, call: Attention) -> NoReturn:
        hear(call)
        raise Left

    return listen


@dataclass(frozen=True, eq=False)
class Leaving:
    """A module's forward, whose output is kept in place of going on."""

    original: Callable[..., Any]
    found: list[Tensor] = field(default_factory=list)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.found.append(first_tensor(self.original(*args, **kwargs)))
        raise Left
