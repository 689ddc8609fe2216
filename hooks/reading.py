"""Which logits are wanted of a run, and an unembedding that computes no others."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headlens.hooks.spread import bias_of, values_of


@dataclass(frozen=True, eq=False)
class Read:
    """Which logits are wanted: of these tokens for each prompt (None: of all), at the last so many positions."""

    tokens: Int[Tensor, "prompt token"] | None
    last: int = 1


@dataclass(frozen=True, eq=False)
class Reading:
    """The unembedding of each prompt's own tokens, at the positions that are read."""

    unembedding: Any
    read: Read
    cells: int

    def __call__(self, hidden: Tensor) -> Tensor:
        weight, bias = values_of(self.unembedding), bias_of(self.unembedding)
        assert self.read.tokens is not None  # else the unembedding is left as it is
        tokens = self.read.tokens.to(weight.device)
        rows = hidden[:, -self.read.last :].unflatten(0, (self.cells, -1))
        logits = torch.einsum("cprd,ptd->cprt", rows, weight[tokens])
        if bias is not None:
            logits = logits + bias[tokens][:, None]
        return logits.flatten(0, 1)
