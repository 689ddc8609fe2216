"""What the forward call that is under way stands for: how far the model has read, and of which tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_CLOCK = "_headlens_clock"


@dataclass(eq=False)
class Clock:
    """Read off the arguments of each forward call of a model, before it runs.

    `memory` is for edits that carry something from one cached step to the next; it is emptied where a run starts.
    """

    past: int = 0  # tokens that the cache holds already
    tokens: Tensor | None = None  # batch pos, all that were read so far; None where the model was not given all ids
    real: Tensor | None = None  # batch pos, False at padding; None where there is none
    memory: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """The hook, for `register_forward_pre_hook(..., with_kwargs=True)`."""
        cache = kwargs.get("past_key_values")
        self.past = int(cache.get_seq_length()) if cache is not None else 0
        if self.past == 0:
            self.memory.clear()
        self.tokens = self._with(kwargs.get("input_ids", args[0] if args else None))
        mask = kwargs.get("attention_mask")
        self.real = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.all()) else None

    def _with(self, new: Tensor | None) -> Tensor | None:
        if new is None or new.dtype.is_floating_point or self.past == 0:
            return None if new is None or new.dtype.is_floating_point else new
        if self.tokens is None or self.tokens.shape[1] != self.past:
            return None
        return torch.cat([self.tokens, new], 1)


@contextmanager
def ticking(hf: nn.Module) -> Iterator[Clock]:
    """The clock of this model: an outer `with` block's, or else a new one for the length of this one."""
    outer = hf.__dict__.get(_CLOCK)
    if outer is not None:
        yield outer
        return
    clock = Clock()
    handle = hf.register_forward_pre_hook(clock.read, with_kwargs=True)
    hf.__dict__[_CLOCK] = clock
    try:
        yield clock
    finally:
        del hf.__dict__[_CLOCK]
        handle.remove()
