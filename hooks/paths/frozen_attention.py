"""Stand-ins for an attention or a block that keep to what it said in the base run, and at most tell what it reads."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headlens.hooks.base_run import BaseLayer
from headlens.hooks.intercept import Attention, placed
from headlens.hooks.leaving import Left, telling
from headlens.hooks.output import alone, first_tensor

# Told a layer's attention call of all cells that have entered below it.
Hear = Callable[[Attention], None]
Forward = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Frozen:
    """An attention's forward that answers what it said in the base run; `hear` is told what it would have computed."""

    attention: nn.Module
    kept: BaseLayer
    hear: Hear | None
    original: Forward  # the attention's own forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.hear is not None:
            with placed({self.attention: telling(self.hear)}), suppress(Left):
                self.original(*args, **kwargs)
        said, hidden = first_tensor(self.kept.attention_out), args[0] if args else kwargs["hidden_states"]
        return alone(self.kept.attention_out, said.repeat(len(hidden) // len(said), 1, 1))


@dataclass(frozen=True, eq=False)
class Front:
    """A block's forward that only tells what its attention reads, in `rows` or else what has come from below."""

    attention: nn.Module
    kept: BaseLayer
    hear: Hear
    rows: Float[Tensor, "row column d_model"] | None
    original: Forward  # the block's own forward

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        with placed({self.attention: telling(self.hear)}), suppress(Left):
            self.original(hidden if self.rows is None else self.rows, *args, **kwargs)
        return alone(self.kept.block_out, hidden)
