"""What a calibration is asked for, checked before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headlens.hooks.groups import as_group
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Head


@dataclass(frozen=True)
class Settings:
    """The arguments of `headlens.calibrate` that fit any model. ValueError for those that cannot be."""

    rule: SinkRule
    beta: float
    candidates: int | None
    level: float
    sets: int
    seed: int

    def __post_init__(self) -> None:
        for name, number in (("candidates", self.candidates), ("sets", self.sets)):
            if number is not None and number < 1:
                raise ValueError(f"{name}={number} was given; expected at least 1.")
        if not 0 < self.level <= 1:
            raise ValueError(f"level={self.level} was given; a head is kept at a p above 0 and up to 1, such as 0.05.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} was given; expected a whole number from 0.")
        # the edit refuses a beta that it cannot take
        self.edit_of([Head(0, 0)])

    def edit_of(self, heads: Sequence[Head]) -> Recalibrate:
        """The Attention Calibration Technique's edit (2406.15765): sinks keep beta, all other keys take the rest."""
        return Recalibrate(heads, donors=self.rule, receivers="rest", beta=self.beta, policy="transfer")

    def plain(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**vars(self), "rule": self.rule.plain()}


def rule_of(sinks: Any) -> SinkRule:
    """The rule that None (the default one), a SinkRule, or what `find_sinks` returned stands for."""
    rule = SinkRule() if sinks is None else as_group(sinks)
    if not isinstance(rule, SinkRule):
        raise ValueError(f"{sinks!r} was given for sinks; expected a SinkRule, or what find_sinks returned.")
    return rule
