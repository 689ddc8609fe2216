"""Published protocols that come with headlens, by name: which tasks, which stages, and what the paper reports."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from headlens.hooks.nearest import did_you_mean
from headlens.tables import Table, checked


class Repaired(Table):
    """A task whose rows are forced, the heads of each arm, and how many draws of the controls there are."""

    task: str
    draws: int
    arms: Mapping[str, list[str]]


class Published(Table):
    """What the paper reports: `shared` heads of so many, and the accuracy of each arm."""

    shared: int
    of: int
    accuracy: Mapping[str, float]


class Preset(Table):
    """A protocol of `headlens reuse` on one model's size."""

    paper: str
    layers: int
    heads: int
    top: float
    n: int
    tasks: Mapping[str, dict[str, Any]]
    positions: Mapping[str, Mapping[str, list[str]]]
    repair: Repaired
    published: Published


def preset(name: str) -> Preset:
    """The protocol of this name. ValueError names the nearest."""
    there = {path.name.removesuffix(".toml"): path for path in files("headlens.data").joinpath("presets").iterdir()}
    if name not in there:
        raise ValueError(f"Unknown preset {name!r}{did_you_mean(name, there)}; there is {', '.join(sorted(there))}.")
    return checked(Preset, tomllib.loads(there[name].read_text()), name)
