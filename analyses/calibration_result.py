"""What a calibration found: which heads were selected on one half of a task, and what they are worth on the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.calibration_settings import Settings
from headlens.analyses.headmap import HeadMap
from headlens.analyses.null_sets import AmongRandomSets
from headlens.analyses.paired_accuracy import Gain
from headlens.analyses.significance import benjamini_hochberg
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.sites import Head

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Calibration:
    """Selected heads, and the evidence.

    `estimate` is what each head would do to first order (nats of the right choice's log-probability, on half A),
    `measured` what the tried ones did alone (points of accuracy on half A, NaN where not tried), `p` [layer, head]
    McNemar's one-sided p of that. `with_sinks` heads have a sink on half A; the tried ones are the best of these by the
    estimate. `held_out` is the gain of all selected heads together on half B, and `null` its place
    among random sets of as many heads in each layer; both None where no head was selected. `accuracy` is that of the
    model as it is, on A and on B, and `chance` that of guessing.
    """

    selected: tuple[Head, ...]
    settings: Settings
    estimate: HeadMap
    measured: HeadMap
    p: np.ndarray
    with_sinks: int
    accuracy: tuple[float, float]
    chance: float
    held_out: Gain | None
    null: AmongRandomSets | None

    def edit(self) -> Recalibrate:
        """The selected heads' calibration, for `model.edited(...)`. ValueError where none was selected."""
        if not self.selected:
            raise ValueError("No head passed the test, so there is nothing to calibrate; see .described().")
        return self.settings.edit_of(self.selected)

    def to_frame(self) -> "pandas.DataFrame":
        """The heads that were tried, the largest gain first: label, estimate (nats), gain (points), p, q, selected.

        q is p after Benjamini and Hochberg's correction for all heads with sinks: those that were not tried, having
        smaller estimates, count as tests that failed.
        """
        import pandas

        tried = np.argwhere(~np.isnan(self.measured.values))
        p = self.p[tuple(tried.T)]
        q = benjamini_hochberg(np.concatenate([p, np.ones(self.with_sinks - len(tried))]))[: len(tried)]
        rows = [
            {
                "label": str(Head(int(layer), int(head))),
                "estimate": float(self.estimate.values[layer, head]),
                "gain": float(self.measured.values[layer, head]),
                "p": float(p[at]),
                "q": float(q[at]),
                "selected": Head(int(layer), int(head)) in self.selected,
            }
            for at, (layer, head) in enumerate(tried)
        ]
        columns = ["label", "estimate", "gain", "p", "q", "selected"]
        frame = pandas.DataFrame(rows, columns=columns)
        return frame.sort_values(["gain", "p"], ascending=[False, True], kind="stable", ignore_index=True)

    def described(self) -> str:
        """What was tried, what passed, and what it is worth, in a few sentences."""
        tried = int((~np.isnan(self.measured.values)).sum())
        on_a, on_b = self.accuracy
        first = (
            f"The model is right on {on_a:.1%} of half A and {on_b:.1%} of half B (chance {self.chance:.1%}). "
            f"{self.with_sinks} heads have sinks on half A; of the best {tried} by gradient, calibrated alone there, "
            f"{len(self.selected)} gain {self._passed()}"
        )
        if self.held_out is None or self.null is None:
            return f"{first}; so no head is selected."
        names = ", ".join(str(head) for head in self.selected[:12]) + (", ..." if len(self.selected) > 12 else "")
        return f"{first}: {names}. All of them on half B: {self.held_out.described()} {self.null.described()}"

    def _passed(self) -> str:
        """What a head's gain had to pass, and what luck alone would let pass."""
        level = self.settings.level
        if level == 1:
            return "(level 1 keeps every gain, as 2406.15765 does, those by luck included)"
        return f"with p <= {level:g} (up to {level * self.with_sinks:.1f} would by luck)"

    def plain(self) -> dict[str, Any]:
        """Everything but the maps, as plain values that fit a JSON file."""
        return {
            "selected": [str(head) for head in self.selected],
            **self.settings.plain(),
            "accuracy": {"A": self.accuracy[0], "B": self.accuracy[1], "chance": self.chance},
            "held_out": None if self.held_out is None else _finite(vars(self.held_out)),
            "null": None if self.null is None else _finite(vars(self.null)),
            "with_sinks": self.with_sinks,
            "heads": [_finite(row) for row in self.to_frame().to_dict("records")],
            "in_words": self.described(),
        }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for NaN, which JSON does not have."""
    return {key: _without_nan(value) for key, value in values.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and value != value else value
