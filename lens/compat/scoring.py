"""Metrics as TransformerLens's patching takes them: one or several functions of logits, reduced over prompts or not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REDUCTIONS = ("scalar", "mean", "none")


@dataclass(frozen=True, eq=False)
class Scoring:
    """Named functions from logits [batch, pos, vocabulary] to a scalar, or to one value for each prompt.

    `reduce` is "scalar" (the functions return a scalar), "mean" (they return [batch], which is averaged) or "none".
    """

    functions: dict[str, Callable[[Tensor], Any]]
    several: bool
    reduce: str
    batch: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.functions),) if self.reduce == "scalar" else (len(self.functions), self.batch)

    def __call__(self, logits: Tensor) -> Tensor:
        """What each function says, [metric] or [metric, batch]."""
        return torch.stack([self._checked(name, function(logits)) for name, function in self.functions.items()])

    def _checked(self, name: str, value: Any) -> Tensor:
        value = torch.as_tensor(value).detach().float()
        if value.shape == self.shape[1:]:
            return value
        got = f"patching_metric {name!r} returned shape {tuple(value.shape)}"
        if self.reduce == "scalar":
            raise ValueError(f"{got}; return a scalar, or a [batch] tensor with reduce='mean' or reduce='none'.")
        raise ValueError(f"{got}; with reduce={self.reduce!r} return a [batch] tensor of length {self.batch}.")


def scoring_of(metric: Any, reduce: str, batch: int) -> Scoring:
    """ValueError for an unknown `reduce` or an empty mapping of metrics."""
    if reduce not in REDUCTIONS:
        raise ValueError(f"Unknown reduce {reduce!r}; give one of {', '.join(REDUCTIONS)}.")
    several = isinstance(metric, Mapping)
    functions = dict(metric) if several else {"metric": metric}
    if not functions:
        raise ValueError("patching_metric is an empty mapping; give at least one metric.")
    return Scoring(functions, several, reduce, batch)
