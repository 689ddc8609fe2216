"""Answers to yes-or-no questions by the difference of two logits, and everything an accuracy should stand beside.

An edit that makes "yes" less likely everywhere raises accuracy on questions that are mostly answered "yes", and sees no
better for it. AUROC and the two mean margins tell the two apart: a constant leaves AUROC as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32

from headlens.analyses.vision.measures import binary_measures as binary
from headlens.analyses.vision.measures.estimates import value_of
from headlens.analyses.vision.measures.judged_answers import JudgedAnswers

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class YesNo(JudgedAnswers):
    """The margin of each sample, logit(yes) - logit(no) at the last token of its prompt: positive says yes, and 0 or
    less says no. `truth` is whether yes is right; `valid` whether the likeliest token of all is either word.

    A measure that is not defined, as recall where nothing is true, is NaN.
    """

    margins: Float32[np.ndarray, " sample"]
    truth: Bool[np.ndarray, " sample"]
    valid: Bool[np.ndarray, " sample"]
    clusters: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = [len(each) for each in (self.margins, self.truth, self.valid, self.clusters)]
        if len({*lengths}) > 1:
            raise ValueError(f"margins, truth, valid and clusters are of lengths {lengths}; give one for each sample.")
        if np.isnan(self.margins).any():
            raise ValueError(f"The margin of sample {int(np.isnan(self.margins).argmax())} is NaN; expected numbers.")

    def __len__(self) -> int:
        return len(self.margins)

    @property
    def yes(self) -> Bool[np.ndarray, " sample"]:
        """Which samples are answered yes."""
        return self.margins > 0

    @property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """All measures by name, as functions of how often each sample counts, [*resample, sample]."""
        yes, truth, all_of = self.yes, self.truth, np.ones(len(self), bool)
        margins = self.margins.astype(np.float64)
        return {
            "accuracy": lambda weights: binary.share(weights, yes == truth, all_of),
            "auroc": lambda weights: binary.auroc(weights, margins, truth),
            "precision": lambda weights: binary.share(weights, truth, yes),
            "recall": lambda weights: binary.share(weights, yes, truth),
            "f1": lambda weights: binary.f1(weights, yes, truth),
            "false_positive_rate": lambda weights: binary.share(weights, yes, ~truth),
            "yes_ratio": lambda weights: binary.share(weights, yes, all_of),
            "margin_if_yes": lambda weights: binary.mean(weights, margins, truth),
            "margin_if_no": lambda weights: binary.mean(weights, margins, ~truth),
            "valid_ratio": lambda weights: binary.share(weights, self.valid, all_of),
        }

    @property
    def auroc(self) -> float:
        """In what share of pairs a question whose answer is yes has the larger margin (equal margins count half)."""
        return value_of(self, "auroc")

    @property
    def margin_if_yes(self) -> float:
        """Mean margin in logits of questions whose right answer is yes."""
        return value_of(self, "margin_if_yes")

    @property
    def margin_if_no(self) -> float:
        """Mean margin in logits of questions whose right answer is no."""
        return value_of(self, "margin_if_no")

    @property
    def valid_ratio(self) -> float:
        """How often the likeliest token is yes or no. Where this is low, the model answers in other words."""
        return value_of(self, "valid_ratio")

    def shifted(self, constant: float) -> "YesNo":
        """The same with a constant, in logits, on every yes. `valid` stays that of the model as it ran."""
        if not np.isfinite(constant):
            raise ValueError(f"A constant of {constant} was given; expected a finite number of logits.")
        # in double precision: a threshold between two margins stays between them
        margins = (self.margins.astype(np.float64) + constant).astype(np.float32)
        return replace(self, margins=margins)

    def at_recall(self, target: float) -> "YesNo":
        """Shifted by the constant with which recall is at least `target`, and as little above it as can be.

        Of the constants with this recall it is one with the fewest false positives, so the best that a threshold can
        do: compare two results only with both brought to one recall. ValueError for a target not above 0 and up to 1,
        or without positives.
        """
        there = np.sort(self.margins[self.truth].astype(np.float64))[::-1]
        if not 0 < target <= 1 or not len(there):
            raise ValueError(
                f"A recall of {target} over {len(there)} questions that are true was asked for; expected above 0 and "
                "up to 1, of at least one."
            )
        # a hair less, so that 0.7 of 10 is 7
        last = there[int(np.ceil(target * len(there) - 1e-9)) - 1]
        below = self.margins[self.margins < last]
        return self.shifted(-float((last + float(below.max())) / 2 if len(below) else last - 1))

    def to_frame(self) -> "pandas.DataFrame":
        """A row per sample: cluster, truth, margin, said, right, valid."""
        import pandas

        return pandas.DataFrame(
            {
                "cluster": [*self.clusters],
                "truth": np.where(self.truth, "yes", "no"),
                "margin": self.margins,
                "said": np.where(self.yes, "yes", "no"),
                "right": self.yes == self.truth,
                "valid": self.valid,
            }
        )

    def described(self) -> str:
        """One sentence: accuracy, and what it must not stand without."""
        return (
            f"Accuracy {self.accuracy:.3f} on {len(self)} questions, with AUROC {self.auroc:.3f}, recall "
            f"{self.recall:.3f}, yes ratio {self.yes_ratio:.3f} and false-positive rate "
            f"{self.false_positive_rate:.3f}; mean margin {self.margin_if_yes:+.2f} where yes is right and "
            f"{self.margin_if_no:+.2f} where no is; {self.valid_ratio:.1%} of likeliest tokens are yes or no."
        )


def fitted_constant(yes_no: YesNo) -> float:
    """The constant on the yes-logit with which most of these samples are answered rightly.

    This is what an intervention must beat on other samples, since it sees no picture: fit it on some, apply it to
    others with `shifted`. 0 where no constant is better than none. Equally good constants form intervals: of these the
    one nearest to 0 is taken (of two as near, that with fewer yes), and in it the middle, halfway between two margins,
    or one logit beyond the outermost margin. ValueError without samples.
    """
    if not len(yes_no):
        raise ValueError("There are no samples to fit a constant on; give some.")
    levels = np.unique(yes_no.margins.astype(np.float64))
    # a threshold in each gap between margins, and one beyond either end
    thresholds = np.r_[levels[0] - 1, (levels[1:] + levels[:-1]) / 2, levels[-1] + 1]
    right = np.array([((yes_no.margins > at) == yes_no.truth).sum() for at in thresholds])
    if ((yes_no.yes == yes_no.truth).sum()) == right.max():
        return 0.0
    # where each gap comes nearest to the threshold 0
    nearest = np.clip(0.0, np.r_[-np.inf, levels], np.r_[levels, np.inf])
    best = np.flatnonzero(right == right.max())
    chosen = min(best, key=lambda at: (abs(nearest[at]), -thresholds[at]))
    return -float(thresholds[chosen])
