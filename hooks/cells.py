"""What a sweep patches at once, and where: a cell names heads or layers, and rows name the positions."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from headlens.hooks.sites import Head


@dataclass(frozen=True, order=True)
class Cell:
    """Heads that are patched together, as (layer, heads) in ascending order of layers.

    At a site without heads a part is (layer, ()). At `rot_k` and `v` heads are key/value heads.
    """

    parts: tuple[tuple[int, tuple[int, ...]], ...]

    @classmethod
    def of_heads(cls, heads: Iterable[Head]) -> "Cell":
        by_layer: dict[int, set[int]] = defaultdict(set)
        for layer, head in heads:
            by_layer[layer].add(head)
        return cls(tuple((layer, tuple(sorted(by_layer[layer]))) for layer in sorted(by_layer)))

    @classmethod
    def of_layer(cls, layer: int) -> "Cell":
        return cls(((layer, ()),))

    @property
    def layer(self) -> int:
        """The first layer that is patched: nothing changes below it."""
        return self.parts[0][0]


@dataclass(frozen=True, eq=False)
class Rows:
    """Which positions of each prompt are patched; at patterns these are query rows, of which `key` picks one entry."""

    chosen: Bool[Tensor, "prompt pos"]
    key: int | None = None

    @classmethod
    def everywhere(cls, prompts: int, length: int) -> "Rows":
        return cls(torch.ones(prompts, length, dtype=torch.bool))

    @classmethod
    def at(cls, pos: int, prompts: int, length: int, key: int | None = None) -> "Rows":
        """The same position of every prompt."""
        return cls((torch.arange(length) == pos).expand(prompts, -1), key)

    @property
    def first(self) -> int:
        """The first patched position of any prompt."""
        return int(self.chosen.any(0).nonzero()[0, 0])
