"""Recalibrate: attention of chosen heads reweighted by groups of keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headlens.hooks.edits import Heads, Pos, check_positions
from headlens.hooks.groups import Group, as_group
from headlens.hooks.nearest import did_you_mean

POLICIES = ("renorm", "transfer", "raw")
MOST_GROUPS = 4  # the rest counted


@dataclass(frozen=True, eq=False)
class Recalibrate:
    """Reweight attention by groups of keys.

    Policies:
        renorm: attention to group g is multiplied by `multipliers[g]`, then each row divided by its new sum.
        raw: multiplied and left so: a row then sums to less (or more) than before.
        transfer: `donors` keep `beta` of their attention, `receivers` take what they lose, in proportion to what they
            have; rows keep their sums. The Attention Calibration Technique (2406.15765) is donors=sinks, receivers=
            "rest", beta=0.4; DuoAttention's gate (2410.10819) donors="rest", receivers=[First(64), Recent(256)], beta=
            its alpha.

    `groups` are named groups of keys (see `headlens.hooks.groups`), at most 3 and the rest, which keeps its weight
    unless it is named in `multipliers` as "rest". A row in which donors have something to give and receivers nothing
    to take it with is left alone, and counted in the report.
    """

    heads: Heads
    groups: Mapping[str, Any] = field(default_factory=dict)
    multipliers: Mapping[str, float] = field(default_factory=dict)
    policy: str = "renorm"
    donors: Any = None
    receivers: Any = None
    beta: float | None = None
    pos: Pos = None
    keys: Mapping[str, Group | str] = field(init=False, repr=False, default_factory=dict)  # checked, by name

    def __post_init__(self) -> None:
        check_positions(self.pos)
        if self.policy not in POLICIES:
            hint = did_you_mean(self.policy, POLICIES)
            raise ValueError(f"Unknown policy {self.policy!r}{hint}; the policies are {', '.join(POLICIES)}.")
        for given in (self.groups, self.multipliers):
            if not isinstance(given, Mapping):
                raise ValueError(
                    f"Recalibrate was given {given!r}; expected groups={{name: keys}} and multipliers={{name: number}}"
                    ", such as groups={'start': 'first'}, multipliers={'start': 0.5}."
                )
        # a copy, so that a dict that changes later does not change the edit
        object.__setattr__(self, "multipliers", dict(self.multipliers))
        checked = _transfer_groups(self) if self.policy == "transfer" else _multiplied_groups(self)
        object.__setattr__(self, "keys", checked)

    def weights(self) -> list[float]:
        """The multiplier of each group, those in none (or the rest) first."""
        return [float(self.multipliers.get(name, 1)) for name in ("rest", *self.keys)]


def _multiplied_groups(edit: Recalibrate) -> dict[str, Group]:
    if edit.donors is not None or edit.receivers is not None or edit.beta is not None:
        raise ValueError(f"donors=, receivers= and beta= go with policy='transfer'; the policy is {edit.policy!r}.")
    if not edit.groups:
        raise ValueError("Recalibrate needs groups={name: keys} and multipliers={name: number}.")
    if "rest" in edit.groups:
        raise ValueError("'rest' is whatever is in no group; leave it out of groups=, and name it in multipliers=.")
    if len(edit.groups) >= MOST_GROUPS:
        raise ValueError(
            f"{len(edit.groups)} groups were given; an edit takes {MOST_GROUPS - 1}, and the rest. Give "
            "further ones in a second Recalibrate."
        )
    for name, value in edit.multipliers.items():
        if name not in (*edit.groups, "rest"):
            hint = did_you_mean(name, (*edit.groups, "rest"))
            raise ValueError(f"Multiplier of unknown group {name!r}{hint}; the groups are {', '.join(edit.groups)}.")
        if not 0 <= _number(value) < float("inf"):
            raise ValueError(f"The multiplier of group {name!r} is {value}; expected a finite number from 0.")
    if not edit.multipliers:
        raise ValueError("Recalibrate was given groups and no multipliers={name: number}; 1 leaves a group as it is.")
    return {name: as_group(group) for name, group in edit.groups.items()}


def _transfer_groups(edit: Recalibrate) -> dict[str, Group | str]:
    if edit.groups or edit.multipliers:
        raise ValueError("policy='transfer' takes donors=, receivers= and beta=, not groups= and multipliers=.")
    if edit.donors is None or edit.receivers is None:
        missing = "receivers" if edit.donors is not None else "donors"
        raise ValueError(
            f"A transfer needs {missing}=: keys that give and keys that receive, such as donors=sinks, "
            "receivers='rest'."
        )
    if not 0 <= _number(edit.beta) <= 1:
        raise ValueError(
            f"A transfer was given beta={edit.beta}; expected the share of their attention that donors "
            "keep, from 0 to 1 (2406.15765 has 0.4)."
        )
    sides = {"donors": edit.donors, "receivers": edit.receivers}
    rest = [name for name, given in sides.items() if isinstance(given, str) and given == "rest"]
    if len(rest) == 2:
        raise ValueError("Both donors= and receivers= are 'rest'; name the keys of one of them.")
    return {name: "rest" if name in rest else as_group(given) for name, given in sides.items()}


def _number(given: Any) -> float:
    """NaN for what is none."""
    try:
        return float(given)
    except (TypeError, ValueError):
        return float("nan")
