"""Prompts with images, as a model takes them, with what is asked and what is true."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one kind, each a batch of 1 of the model's own inputs (input_ids, pixel_values, ...).

    `answers` are what is right, such as "yes" or "no" ("" where nothing is asked), `clusters` what samples are
    resampled by (one scene is one cluster), `facts` what is known of each, such as the objects of its picture.
    """

    name: str
    inputs: tuple[Mapping[str, Tensor], ...]
    answers: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    facts: tuple[Mapping[str, Any], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.inputs)
        filled = {
            "answers": self.answers or ("",) * n,
            "clusters": self.clusters or tuple(f"sample {at}" for at in range(n)),
            "facts": self.facts or ({},) * n,
        }
        for key, value in filled.items():
            if len(value) != n:
                raise ValueError(f"{len(value)} {key} were given for {n} samples; give one for each.")
            object.__setattr__(self, key, value)
        for at, one in enumerate(self.inputs):
            if "input_ids" not in one or one["input_ids"].ndim != 2 or len(one["input_ids"]) != 1:
                raise ValueError(
                    f"Sample {at} has no input_ids of shape [1, pos]; give each as the model takes it alone."
                )

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, indices: Sequence[int]) -> "Samples":
        """The samples at these indices, in this order."""
        rows = [*indices]
        parts = {
            key: tuple(getattr(self, key)[at] for at in rows) for key in ("inputs", "answers", "clusters", "facts")
        }
        return Samples(self.name, details=self.details, **parts)

    def batches(self, size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Indices and inputs of samples that run together: of equal token counts, at most `size`, and no padding.

        Inputs are joined on their first axis, which is also how models take the patches of several pictures.
        """
        alike: dict[tuple, list[int]] = {}
        for at, one in enumerate(self.inputs):
            key = (tuple(sorted(one)), *(tuple(one[name].shape[1:]) for name in sorted(one)))
            alike.setdefault(key, []).append(at)
        for some in alike.values():
            for first in range(0, len(some), size):
                together = some[first : first + size]
                names = self.inputs[together[0]]
                yield together, {name: torch.cat([self.inputs[at][name] for at in together]) for name in names}
