"""One sweep's patch: which part of which activation is taken from a cache and put into a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.utilities.components_utils import get_act_name

from headlens.compat.runner import Cache, Runner


@dataclass(frozen=True, eq=False)
class Patch:
    """For each row of indices (the layer first), what `setter` puts of the cached activation into the run of `tokens`.

    `setter(activation, indices, cached)` returns the activation to go on with, which it may change in place.
    """

    tokens: Int[Tensor, "batch pos"]
    cache: Cache
    setter: Callable[..., Tensor]
    activation: str
    rows: Sequence[Sequence[Any]]

    @property
    def unrotated(self) -> bool:
        """Whether the cache has the activation under TransformerLens's own name: for q and k, before their rotation."""
        return len(self.rows) > 0 and get_act_name(self.activation, self.rows[0][0]) in self.cache.keys()

    def whole(self, runner: Runner, row: Sequence[Any]) -> Float[Tensor, "batch pos token"]:
        """The logits of a whole forward with one row patched."""
        name = runner.hook_name(self.activation, row[0])
        cached = self.cache[name]
        return runner.run(self.tokens, {name: lambda activation: self.setter(activation, list(row), cached)})
