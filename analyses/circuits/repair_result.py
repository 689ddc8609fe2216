"""What forced rows did to a model's answers: accuracies with their intervals, beside controls, and what followed.

Everything here was made with the answer in hand (see `headlens.analyses.circuits.repair`), and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.paired_accuracy import Gain, accuracy_gain
from headlens.analyses.uncertainty import ratio_interval
from headlens.hooks.sites import Head

if TYPE_CHECKING:
    import pandas

ORACLE = (
    "ORACLE: which positions are forced was chosen with the answer in hand. A gain says what these heads do when they "
    "are driven, not that the model drives them."
)


@dataclass(frozen=True, eq=False)
class Readings:
    """What runs answer, [prompt] or [draw, prompt].

    `right`: whether the answer is the most likely token of the whole vocabulary. `among`: whether it is the most likely
    of the options, 1 or 0, NaN where it is not known how an option is written as an answer. `logit_diff`: answer minus
    foil, in logits.
    """

    right: np.ndarray
    among: np.ndarray
    logit_diff: np.ndarray

    def __getitem__(self, runs: Any) -> "Readings":
        return Readings(self.right[runs], self.among[runs], self.logit_diff[runs])

    def per_prompt(self) -> dict[str, np.ndarray]:
        """Each kind of reading [prompt], the mean of several draws."""
        kinds = {"accuracy": self.right, "among_options": self.among, "logit_diff": self.logit_diff}
        return {kind: values.astype(np.float64).reshape(-1, values.shape[-1]).mean(0) for kind, values in kinds.items()}


@dataclass(frozen=True, eq=False)
class Followed:
    """What followers do at END in one run, [head, prompt].

    `to_right` and `to_wrong`: their attention to the answer's own position (NaN where the prompt has none) and to all
    wrong options together. `attribution`: the part of answer logit minus foil logit that they write directly.
    """

    to_right: np.ndarray
    to_wrong: np.ndarray
    attribution: np.ndarray


@dataclass(frozen=True, eq=False)
class Repair:
    """Arms of heads forced onto the wrong options, and controls.

    `before`: no edit [prompt]. `after`: each arm [prompt]. `other_tokens`: each arm's heads forced onto random tokens
    that are no option [draw, prompt]. `other_heads`: as many random heads of the same layers, `random_heads`, forced
    onto the wrong options [draw, prompt]. `followed_before` and `followed`: what `followers` do without the edit and
    under each arm.

    `oracle` is always True: the edits need the answers.
    """

    arms: Mapping[str, tuple[Head, ...]]
    before: Readings
    after: Mapping[str, Readings]
    other_tokens: Mapping[str, Readings]
    other_heads: Mapping[str, Readings]
    random_heads: Mapping[str, Sequence[tuple[Head, ...]]]
    clusters: tuple[str, ...]
    followers: tuple[Head, ...] = ()
    followed_before: Followed | None = None
    followed: Mapping[str, Followed] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    oracle: bool = field(default=True, init=False)

    def gain(self, arm: str, level: float = 0.95, seed: int = 0) -> Gain:
        """How much more accurate an arm is than no edit, over the whole vocabulary: items fixed and broken, McNemar's
        test, and the interval of the gain. It is an oracle's gain."""
        return accuracy_gain(self.before.right, self.after[arm].right, self.clusters, level, seed=seed)

    def p_of_heads(self, arm: str) -> float:
        """The share of random heads at least as accurate when forced alike, the arm counted among them."""
        others = self.other_heads[arm].right.mean(-1)
        return float((1 + (others >= self.after[arm].right.mean()).sum()) / (1 + len(others)))

    def to_frame(self, level: float = 0.95, seed: int = 0) -> "pandas.DataFrame":
        """One row for no edit, and for each arm and each of its controls; `oracle` says what was made with the answer.

        accuracy, among_options and logit_diff are means over prompts and draws, with the bootstrap intervals _low and
        _high over clusters of prompts (NaN where nothing varied); `least` and `most` are the accuracies of the lowest
        and the highest draw. `fixed` and `broken` count items per draw, and `p`, of arms, is McNemar's, two-sided.
        """
        import pandas

        rows = [self._row("", "no edit", (), self.before, level, seed)]
        for arm, heads in self.arms.items():
            rows.append(self._row(arm, "wrong options", heads, self.after[arm], level, seed))
            rows[-1]["p"] = self.gain(arm, level, seed).p
            if len(self.other_tokens[arm].right):
                rows.append(self._row(arm, "other tokens", heads, self.other_tokens[arm], level, seed))
            if len(self.other_heads[arm].right):
                rows.append(self._row(arm, "wrong options, other heads", (), self.other_heads[arm], level, seed))
        return pandas.DataFrame(rows)

    def followers_frame(self, level: float = 0.95, seed: int = 0) -> "pandas.DataFrame":
        """One row for each arm and follower: attention at END to the answer (`to_right`) and to the wrong options
        (`to_wrong`), and direct logit attribution, before, after, and the change with its interval. Oracle's edits."""
        import pandas

        rows = []
        for arm, after in self.followed.items():
            for at, head in enumerate(self.followers):
                row: dict[str, Any] = {"arm": arm, "head": str(head), "oracle": True}
                for kind in ("to_right", "to_wrong", "attribution"):
                    one, other = (getattr(each, kind)[at].astype(np.float64) for each in (self.followed_before, after))
                    row |= {f"{kind}_before": _mean(one), f"{kind}_after": _mean(other)}
                    row |= {f"{kind}_change": _mean(other - one)}
                    row |= self._bounds(kind, other - one, level, seed)
                rows.append(row)
        return pandas.DataFrame(rows)

    def described(self) -> str:
        """The figures in a few sentences, that the edits are an oracle's first of all."""
        lines = [ORACLE]
        for arm, heads in self.arms.items():
            one, other = self.before.per_prompt(), self.after[arm].per_prompt()
            lines.append(
                f"{arm} ({', '.join(map(str, heads))}) forced onto the wrong options: {self.gain(arm).described()} "
                f"Among the options accuracy went from {_mean(one['among_options']):.1%} to "
                f"{_mean(other['among_options']):.1%}, and the logit difference from {_mean(one['logit_diff']):.2f} to "
                f"{_mean(other['logit_diff']):.2f}."
            )
            lines += [f"  {control}" for control in self._controls(arm)]
            if self.followers:
                lines += [f"  {line}" for line in self._followers_in_words(arm)]
        return "\n".join(lines)

    def _row(
        self, arm: str, forced: str, heads: Sequence[Head], readings: Readings, level: float, seed: int
    ) -> dict[str, Any]:
        draws = readings.right.reshape(-1, len(self.before.right))
        row: dict[str, Any] = {"arm": arm, "forced": forced, "heads": " ".join(map(str, heads))}
        row |= {"oracle": forced != "no edit", "draws": len(draws)}
        for kind, values in readings.per_prompt().items():
            row |= {kind: _mean(values), **self._bounds(kind, values, level, seed)}
        row |= {"least": draws.mean(-1).min(), "most": draws.mean(-1).max()}
        row |= {
            "fixed": (draws & ~self.before.right).sum(-1).mean(),
            "broken": (self.before.right & ~draws).sum(-1).mean(),
        }
        return row | {"p": np.nan}

    def _bounds(self, kind: str, values: np.ndarray, level: float, seed: int) -> dict[str, float]:
        """The interval of a mean over prompts, NaN where it has no width: what did not vary here may elsewhere."""
        found = ratio_interval(values, np.ones(len(values)), self.clusters, level, seed=seed)
        low, high = float(found.low), float(found.high)
        return {f"{kind}_low": low if low < high else np.nan, f"{kind}_high": high if low < high else np.nan}

    def _controls(self, arm: str) -> list[str]:
        lines = []
        for said, readings in (
            ("The same heads forced onto other tokens", self.other_tokens[arm]),
            ("Other heads of the same layers forced onto the wrong options", self.other_heads[arm]),
        ):
            each = readings.right.mean(-1)
            if len(each):
                lines.append(f"{said}: {each.mean():.1%} ({each.min():.1%} to {each.max():.1%}, {len(each)} draws).")
        if len(self.other_heads[arm].right):
            lines[-1] = f"{lines[-1][:-2]}; p {self.p_of_heads(arm):.3f})."
        return lines

    def _followers_in_words(self, arm: str) -> list[str]:
        before, after = self.followed_before, self.followed[arm]
        assert before is not None
        return [
            f"Follower {head}: attention to the answer {_mean(before.to_right[at]):.1%} to "
            f"{_mean(after.to_right[at]):.1%}, to the wrong options {_mean(before.to_wrong[at]):.1%} to "
            f"{_mean(after.to_wrong[at]):.1%}; attribution {_mean(before.attribution[at]):.2f} to "
            f"{_mean(after.attribution[at]):.2f}."
            for at, head in enumerate(self.followers)
        ]


def _mean(values: np.ndarray) -> float:
    """The mean of what is there, NaN where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
