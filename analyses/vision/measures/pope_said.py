"""POPE's questions (2305.10355) by what the model says: greedy text, read by a parser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from headlens.analyses.vision.measures import binary_measures as binary
from headlens.analyses.vision.measures.estimates import value_of
from headlens.analyses.vision.measures.judged_answers import JudgedAnswers
from headlens.analyses.vision.measures.parsing import parse_yes_no
from headlens.analyses.vision.measures.pope import truths
from headlens.analyses.vision.replies import replies, text_of
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.analyses.vision.under import Under
from headlens.hooks.model import Model

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Said(JudgedAnswers):
    """What was said to each question and what the parser made of it: "yes", "no", or None for neither.

    Neither is wrong, whatever is right: it counts as an answer in `accuracy` and as a miss in `recall`, and is no yes.
    There are no margins, so no AUROC: see `pope` for whether a difference is more than a shift of the threshold.
    """

    texts: tuple[str, ...]
    said: tuple[str | None, ...]
    truth: Bool[np.ndarray, " sample"]
    clusters: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = [len(each) for each in (self.texts, self.said, self.truth, self.clusters)]
        if len({*lengths}) > 1:
            raise ValueError(f"texts, said, truth and clusters are of lengths {lengths}; give one for each sample.")
        odd = {*self.said} - {"yes", "no", None}
        if odd:
            raise ValueError(f"The parser gave {sorted(map(repr, odd))[0]}; expected 'yes', 'no' or None.")

    def __len__(self) -> int:
        return len(self.said)

    @property
    def measures(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """All measures by name, as functions of how often each sample counts, [*resample, sample]."""
        yes, no = (np.array([one == word for one in self.said], bool) for word in ("yes", "no"))
        truth, every = self.truth, np.ones(len(self), bool)
        return {
            "accuracy": lambda weights: binary.share(weights, np.where(truth, yes, no), every),
            "precision": lambda weights: binary.share(weights, truth, yes),
            "recall": lambda weights: binary.share(weights, yes, truth),
            "f1": lambda weights: binary.f1(weights, yes, truth),
            "false_positive_rate": lambda weights: binary.share(weights, yes, ~truth),
            "yes_ratio": lambda weights: binary.share(weights, yes, every),
            "unparsed": lambda weights: binary.share(weights, ~yes & ~no, every),
        }

    @property
    def unparsed(self) -> float:
        """The share of answers that are neither yes nor no."""
        return value_of(self, "unparsed")

    def to_frame(self) -> "pandas.DataFrame":
        """A row per sample: cluster, truth, text, said ("" for neither), right."""
        import pandas

        truth = ["yes" if one else "no" for one in self.truth]
        return pandas.DataFrame(
            {
                "cluster": [*self.clusters],
                "truth": truth,
                "text": [*self.texts],
                "said": [one or "" for one in self.said],
                "right": [one == other for one, other in zip(self.said, truth, strict=True)],
            }
        )

    def described(self) -> str:
        """One sentence."""
        return (
            f"Accuracy {self.accuracy:.3f} on {len(self)} questions as said, with precision {self.precision:.3f}, "
            f"recall {self.recall:.3f}, F1 {self.f1:.3f} and yes ratio {self.yes_ratio:.3f}; {self.unparsed:.1%} of "
            "answers are neither yes nor no and count as wrong."
        )


def pope_said(
    model: Model,
    samples: Samples,
    *,
    under: Under = (),
    max_new_tokens: int = 10,
    parse: Callable[[str], str | None] = parse_yes_no,
    batch: int = 32,
    progress: bool = False,
) -> Said:
    """Greedy answers under edits, read by `parse`, for models that do not begin with yes or no.

    Published numbers were made with `parse_as_pope`, which takes whatever does not deny for a yes.

    Args:
        model: a vision-language model with a tokenizer.
        samples: questions whose answers are "yes" or "no".
        under: edits for all, or a function from the indices of a batch to its edits.
        max_new_tokens: how long answers may be; the parsers here read no further than one sentence.
        parse: from the text of an answer to "yes", "no" or None.
        batch: samples that run together, where they are of equal length.
        progress: show a bar.

    Raises:
        ValueError: for no samples, numbers below 1, an answer of a sample that is neither word, a model without a
            tokenizer, or a parser that gives anything else.
    """
    truth = truths(samples)
    said = replies(model, samples, max_new_tokens, under=under, batch=batch, progress=progress)
    texts = tuple(text_of(model, one) for one in said)
    about = {
        "analysis": "pope_said",
        "parse": getattr(parse, "__name__", repr(parse)),
        "max_new_tokens": max_new_tokens,
    }
    return Said(
        texts,
        tuple(parse(text) for text in texts),
        truth,
        samples.clusters,
        {**about, **samples_origin(model, samples)},
    )
