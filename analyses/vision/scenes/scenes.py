"""Scenes whose truth is known: objects in the cells of a grid, and a habit of the world that can mislead a model.

Every anchor has a partner. In the world of `PRIOR` an anchor comes with its partner nine times in ten, so that a model
that saw many scenes expects the partner; `PARTED` takes it away, and `without_prior` gives the twin world in which
every object is as frequent but nothing goes together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

GRID = 6
ANCHORS = {
    "table": "chair",
    "cup": "plate",
    "bat": "ball",
    "lock": "key",
    "hammer": "nail",
    "drum": "stick",
    "tree": "bird",
    "boat": "flag",
}
FILLERS = ("star", "leaf", "ring", "pear", "coin", "fish", "book", "lamp")
# The order of this list is the order in which objects are told.
NOUNS = (*ANCHORS, *ANCHORS.values(), *FILLERS)
_ORDER = {noun: at for at, noun in enumerate(NOUNS)}
# Contrast of an object that can hardly be seen; of others it is 1.
WEAK = (0.02, 0.08)
_ANCHOR_SHARE = 1.5 / len(ANCHORS)


@dataclass(frozen=True)
class World:
    """How likely things are: a partner beside its anchor, a partner without it, an object that can hardly be seen.

    A scene has one or two anchors, and up to two fillers, of which the first named are the most frequent (1 / rank).
    """

    beside_anchor: float = 0.9
    elsewhere: float = 0.04
    weak: float = 0.2

    def __post_init__(self) -> None:
        for name in ("beside_anchor", "elsewhere", "weak"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} was given as {getattr(self, name)!r}; expected a probability from 0 to 1.")


PRIOR = World()
# Anchors without their partners: what the prior makes a model say is then not there.
PARTED = World(beside_anchor=0.0)


def without_prior(world: World) -> World:
    """The twin of a world: each partner as frequent as there, and just as frequent with its anchor as without it."""
    share = _ANCHOR_SHARE * world.beside_anchor + (1 - _ANCHOR_SHARE) * world.elsewhere
    return World(share, share, world.weak)


@dataclass(frozen=True)
class Placed:
    """One object: its noun, its cell (row * GRID + column, which is also its image patch), and its contrast, to 1."""

    noun: str
    cell: int
    contrast: float


@dataclass(frozen=True)
class Scene:
    """The objects of one scene, each of another noun and in a cell of its own, in the order of NOUNS.

    `draw` are the seed and the number that it was drawn with; the noise of its picture follows from them.
    """

    placed: tuple[Placed, ...]
    draw: tuple[int, int]

    @property
    def name(self) -> str:
        return f"seed {self.draw[0]} scene {self.draw[1]}"

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        return tuple(one.noun for one in self.placed)

    @cached_property
    def cells(self) -> Mapping[str, int]:
        """The cell of each noun that is here."""
        return {one.noun: one.cell for one in self.placed}

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Partners of the anchors here that are not here: what the prior of the world suggests wrongly."""
        return tuple(
            partner for anchor, partner in ANCHORS.items() if anchor in self.nouns and partner not in self.nouns
        )


def draw_scenes(n: int, seed: int = 0, world: World = PRIOR, *, start: int = 0) -> tuple[Scene, ...]:
    """Scenes number `start` to `start + n - 1` of this seed and world. Scene i is the same for every n and start.

    Equal arguments give equal scenes with the same numpy (its generators may change between versions).
    """
    if n < 1 or seed < 0 or start < 0:
        raise ValueError(f"n={n}, seed={seed}, start={start} were given; expected n from 1, seed and start from 0.")
    return tuple(_draw(world, seed, at) for at in range(start, start + n))


def _draw(world: World, seed: int, at: int) -> Scene:
    rng = np.random.default_rng([seed, at])
    anchors = _some([*ANCHORS], 1 + int(rng.random() < 0.5), np.ones(len(ANCHORS)), rng)
    chances = [world.beside_anchor if anchor in anchors else world.elsewhere for anchor in ANCHORS]
    partners = [partner for partner, chance in zip(ANCHORS.values(), chances, strict=True) if rng.random() < chance]
    fillers = _some([*FILLERS], int(rng.random() * 3), 1 / np.arange(1, len(FILLERS) + 1), rng)
    nouns = sorted([*anchors, *partners, *fillers], key=_ORDER.__getitem__)
    cells = np.argsort(rng.random(GRID * GRID))[: len(nouns)]
    low, high = WEAK
    placed = []
    for noun, cell in zip(nouns, cells, strict=True):
        weak, contrast = rng.random() < world.weak, low + (high - low) * rng.random()
        placed.append(Placed(noun, int(cell), float(contrast) if weak else 1.0))
    return Scene(tuple(placed), (seed, at))


def _some(nouns: list[str], n: int, weights: np.ndarray, rng: np.random.Generator) -> list[str]:
    """n different nouns, one after the other, each in proportion to its weight among those left."""
    # the smallest of exponential waiting times is such a draw
    waits = -np.log1p(-rng.random(len(nouns))) / weights
    return [nouns[at] for at in np.argsort(waits)[:n]]
