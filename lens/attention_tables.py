"""The tables [stats], [sinks] and [calibrate]: what is read off attention, and how sinks are found and weakened."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from headlens.run_table import Listed, RunTable, parts

if TYPE_CHECKING:
    from headlens.analyses.choice_task import ChoiceTask
    from headlens.analyses.prompts import Prompts
    from headlens.hooks.groups import Group
    from headlens.hooks.model import Model
    from headlens.hooks.sink_rule import SinkRule


class Measured(NamedTuple):
    """The statistics, and the groups of keys whose share is measured, each under its name."""

    what: list[str]
    groups: "Mapping[str, Group]"


class StatsTable(RunTable):
    """[stats]: `what` of `headlens.head_stats`, and `group`, its groups by name: one word, or several joined by "+"."""

    what: Listed = None
    group: Listed = None

    def check(self) -> None:
        """ValueError for an unknown statistic or group, or nothing to measure."""
        from headlens.analyses.stats_asked import asked
        from headlens.hooks.token_kinds import Resolving

        measured = self.measured()
        if measured.what or not measured.groups:
            asked(measured.what, None, Resolving(None, None), 0)

    def fitted(self, model: "Model", task: "Prompts") -> Measured:
        """What is measured. ValueError for what these prompts or this model's tokens do not have."""
        from headlens.analyses.stats_run import check

        measured = self.measured()
        check(model, task, *measured)
        return measured

    def resolved(self, fitted: Measured) -> dict[str, Any]:
        """All of it, by name."""
        return {"what": fitted.what, **({"group": [*fitted.groups]} if fitted.groups else {})}

    def measured(self) -> Measured:
        """The statistics by name, the default ones where none is, and the groups."""
        from headlens.analyses.attention_statistics import DEFAULT
        from headlens.hooks.groups import as_group

        what, groups = parts(self.what), parts(self.group) or []
        return Measured([*DEFAULT] if what is None else what, {name: as_group(_united(name)) for name in groups})


class RuleTable(RunTable):
    """What every table about sinks has: `headlens.SinkRule`."""

    mode: str = "causal_column"
    alpha: float = 5.0
    threshold: float | None = None
    min_rows: int = 16
    min_share: float = 0.2
    first: bool = False

    def rule(self) -> "SinkRule":
        """When a key is a sink. ValueError for an unknown mode, or a bound that cannot be."""
        from headlens.hooks.sink_rule import SinkRule

        return SinkRule(**{key: getattr(self, key) for key in RuleTable.model_fields})

    def resolved(self, fitted: Any) -> dict[str, Any]:
        """All that is not left out."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class SinksTable(RuleTable):
    """[sinks]: the arguments of `headlens.find_sinks`."""

    def check(self) -> None:
        """ValueError for what is no rule."""
        self.rule()

    def fitted(self, model: "Model", task: "Prompts") -> "SinkRule":
        """The rule. ValueError for a model whose rows it cannot judge, or with too few positions for these prompts."""
        from headlens.analyses.sinks_run import check

        rule = self.rule()
        check(model, task, rule)
        return rule


class CalibrateTable(RuleTable):
    """[calibrate]: the arguments of `headlens.calibrate`. Layers may be text such as "2-29,31"."""

    beta: float = 0.4
    layers: str | list[int] | None = None
    candidates: int | str = 60
    level: float = 0.05
    sets: int = 20
    seed: int = 0

    def check(self) -> None:
        """ValueError for settings that fit no model."""
        from headlens.analyses.calibration_settings import Settings

        found = self.arguments()
        Settings(found["sinks"], *(found[key] for key in ("beta", "candidates", "level", "sets", "seed")))

    def fitted(self, model: "Model", task: "ChoiceTask") -> dict[str, Any]:
        """The arguments, layers among them. ValueError for a layer that is not there, or too few prompts."""
        from headlens.analyses.calibration import pool_of, split
        from headlens.analyses.fitness import refuse_unfit

        found = self.arguments()
        refuse_unfit(model, task)
        split(task, self.seed)
        return {**found, "layers": sorted({head.layer for head in pool_of(model, found["layers"])})}

    def resolved(self, fitted: dict[str, Any]) -> dict[str, Any]:
        """All of it, with the layers that are tried."""
        return {**super().resolved(fitted), "layers": fitted["layers"], "candidates": fitted["candidates"] or "all"}

    def arguments(self) -> dict[str, Any]:
        """The arguments of `calibrate`, layers and candidates as numbers. ValueError for text that is neither."""
        found = {key: getattr(self, key) for key in ("beta", "level", "sets", "seed")}
        return {**found, "sinks": self.rule(), "layers": layers_of(self.layers), "candidates": _count(self.candidates)}


def _united(name: str) -> str | list[str]:
    """Text such as "punctuation+newline" as its groups."""
    several = [part.strip() for part in name.split("+")]
    return several if len(several) > 1 else name


def layers_of(given: str | list[int] | None) -> list[int] | None:
    """Text such as "2-5,8" as numbers."""
    if not isinstance(given, str):
        return given
    layers: list[int] = []
    for part in given.split(","):
        span = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise ValueError(f"{part!r} was given for layers; write them as 2-29 or 2,5,8.")
        layers += range(int(span[1]), int(span[2] or span[1]) + 1)
    return layers


def _count(given: int | str) -> int | None:
    """Text such as "60" as a number, and "all" as None, which is how `calibrate` has it."""
    if isinstance(given, int) or given.isdecimal():
        return int(given)
    if given != "all":
        raise ValueError(f"{given!r} was given for candidates; give a number of heads, or all.")
    return None
