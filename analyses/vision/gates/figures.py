"""What was measured, and what was claimed of it: figures with intervals, conditions on them, and gates' verdicts."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SENSES = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
HOLDS, FAILS, UNDEFINED = "holds", "fails", "not defined"


@dataclass(frozen=True)
class Figure:
    """One measure of one thing: `value` over all scenes with the interval of a bootstrap over scenes, and the `least`
    and `most` of it among the seeds. NaN where there is none."""

    gate: str
    about: str
    measure: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    least: float = float("nan")
    most: float = float("nan")

    @property
    def named(self) -> str:
        return f"{self.measure} of {self.about}"


@dataclass(frozen=True)
class Condition:
    """A figure is to be >=, >, <= or < a bound, which its value alone decides."""

    figure: Figure
    sense: str
    bound: float

    @property
    def met(self) -> bool | None:
        """None where the figure is not defined."""
        if np.isnan(self.figure.value):
            return None
        return bool(_SENSES[self.sense](self.figure.value, self.bound))

    @property
    def open(self) -> bool:
        """Whether the other side is within the interval, or where there is none, among the seeds."""
        one = self.figure
        low, high = (one.least, one.most) if np.isnan(one.low) else (one.low, one.high)
        return bool(low <= self.bound <= high and low < high)

    def described(self) -> str:
        one = self.figure
        bounds = "" if np.isnan(one.low) else f" [{number(one.low)}, {number(one.high)}]"
        return f"{one.named} is {number(one.value)}{bounds}, claimed {self.sense} {self.bound:g}"


@dataclass(frozen=True)
class Gate:
    """One claim: `verdict` is "holds", "fails" or "not defined", `reading` what decided it and what else to know."""

    name: str
    claim: str
    verdict: str
    reading: str


def at_least(figure: Figure, bound: float) -> Condition:
    return Condition(figure, ">=", bound)


def above(figure: Figure, bound: float) -> Condition:
    return Condition(figure, ">", bound)


def below(figure: Figure, bound: float) -> Condition:
    return Condition(figure, "<", bound)


def at_most(figure: Figure, bound: float) -> Condition:
    return Condition(figure, "<=", bound)


def judged(name: str, claim: str, conditions: Sequence[Condition], *remarks: str) -> Gate:
    """The gate that fails where a condition does, is not defined where one is not and none fails, and else holds.

    The reading names those that decide; of a gate that holds, those that an interval leaves open.
    """
    failed = [one for one in conditions if one.met is False]
    unknown = [one for one in conditions if one.met is None]
    unsettled = [one for one in conditions if one.met is not None and one.open]
    verdict = FAILS if failed else UNDEFINED if unknown or not conditions else HOLDS
    said = [one.described() for one in failed or unknown]
    if unsettled and verdict == HOLDS:
        said.append(f"by value; intervals leave open: {', '.join(one.figure.named for one in unsettled)}")
    return Gate(name, claim, verdict, "; ".join([*said, *(remark for remark in remarks if remark)]))


def number(value: float) -> str:
    """Three digits behind the point, of large numbers none; "-" for NaN."""
    return "-" if np.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
