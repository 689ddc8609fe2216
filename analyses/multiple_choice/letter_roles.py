"""How do heads read lettered options? Correct-letter, single-letter, uniform and amplification heads (2307.09458)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.multiple_choice.estimates import Estimate, estimate
from headlens.analyses.multiple_choice.letter_attention import LetterAttention, letter_attention
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.analyses.thresholds import check_thresholds
from headlens.hooks.model import Model

if TYPE_CHECKING:
    import pandas

CLASSES = ("correct letter", "single letter", "uniform", "amplification", "none")
# What each number of the evidence is measured in.
UNITS = {
    "letters": "share of END's attention, on all options' letters together",
    "contents": "share of END's attention, on all options' contents together",
    "right_content": "share of END's attention, on the right option's content",
    "last": "share of END's attention, on what follows the last option",
    "right_focus": "part of the attention to letters that is on the right one (chance: 1 / options)",
    "fixed_focus": "part of the attention to letters that is on `fixed_letter`, whichever is right",
    "evenness": "entropy of the attention over letters, of the largest there could be",
    "direct": "logits (right letter minus the mean of the others)",
    "boost": "logits that `boosted_letter` gets where it is wrong, or where it is right, whichever is less",
    "gain": "logits per logit that the stream has before the layer (slope over prompts and letters)",
}


@dataclass(frozen=True, eq=False)
class LetterRoles:
    """A class for each head, beside the evidence for it.

    A class describes what END attends to and what the head writes on these prompts; it does not say that the model
    needs the head for it.
    """

    heads: tuple[str, ...]
    classes: tuple[str, ...]
    evidence: Mapping[str, Estimate]  # [head] each
    fixed_letter: tuple[str, ...]
    boosted_letter: tuple[str, ...]
    thresholds: Mapping[str, float]
    units: Mapping[str, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> tuple[str, ...]:
        """The heads of a class. ValueError for a class that there is not."""
        if name not in CLASSES:
            raise ValueError(f"There is no class {name!r}; the classes are {', '.join(CLASSES)}.")
        return tuple(head for head, given in zip(self.heads, self.classes, strict=True) if given == name)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per head: its class, and each number of the evidence with its bounds."""
        import pandas

        numbers = {name: column for key, each in self.evidence.items() for name, column in each.columns(key).items()}
        letters = {"fixed_letter": self.fixed_letter, "boosted_letter": self.boosted_letter}
        return pandas.DataFrame({"head": self.heads, "class": self.classes, **letters, **numbers})


def letter_roles(
    model: Model,
    task: Task,
    heads: Sequence[Any] | str,
    *,
    attention: float = 0.1,
    focus: float = 0.5,
    evenness: float = 0.9,
    boost: float = 0.1,
    last: float = 0.5,
    gain: float = 0.02,
    level: float = 0.95,
    memory: str | int | None = "1GiB",
) -> LetterRoles:
    """Class heads by what END attends to in the options of the clean prompts, and by what they write for the letters.

    A head has the first of these classes whose thresholds the means over prompts reach:

    - "correct letter": `attention` or more of END's attention is on the letters, and `focus` or more of that on the
      right option's;
    - "single letter": as much is on the letters, and `focus` or more of that on one and the same letter whichever is
      right; or the head writes `boost` logits or more for one and the same letter, both where it is right and where it
      is wrong (minus the mean of the other letters);
    - "uniform": as much is on the letters, alike: `evenness` or more of the largest entropy;
    - "amplification": `last` or more is on what follows the last option ("\\nAnswer:", END itself), and what the head
      writes grows with what the stream says already: `gain` or more logits for each logit by which the stream before
      the layer prefers a letter;
    - "none".

    Args:
        heads: such as `output_nodes(model, task).heads[:10]`.
        attention, focus, evenness, last: shares, 0 to 1. boost: logits. gain: logits per logit.
        level: of the bootstrap intervals over clusters of prompts. A fixed and a boosted letter are those for which the
            number is largest on all prompts, which the intervals do not redo.

    Where letters stand in the order of the alphabet, a fixed letter is a fixed place too; on a task with the mutation
    "shuffled" it is the letter alone.

    Returns:
        LetterRoles: `.to_frame()`, `.of(name)`, `.evidence` with `.units`. Letters that not all prompts have (a task
        with the mutation "relettered") are no fixed letters; without any, what asks for one is NaN.

    The paper describes the classes by examples of attention; the thresholds are this function's own, and so are the
    gain, for "re-amplifies", and the order. It counts a head that boosts one letter as single-letter if it does so
    where that letter is right; here it must do so where it is wrong as well, else every mover of letters would pass.

    SmolLM2-135M, which answers lettered options by chance, has no correct-letter head: of its 270 heads on 32 prompts
    with shuffled letters 31 are single-letter, 6 uniform and 13 amplification heads, and of those with 0.05 or more of
    END's attention on letters none has more than 0.31 of that on the right one.

    Raises:
        ValueError: for a threshold that is not above 0, a task without options, and heads that there are not.
    """
    thresholds = {
        "attention": attention,
        "focus": focus,
        "evenness": evenness,
        "boost": boost,
        "last": last,
        "gain": gain,
    }
    check_thresholds(thresholds)
    read = letter_attention(model, task, heads, memory)
    evidence, fixed, boosted = evidence_of(read, task.templates, level)
    classes = tuple(_classes({name: each.value for name, each in evidence.items()}, thresholds))
    about = {**origin(model, task), "run": "clean", "paper": "2307.09458", "thresholds": thresholds, "level": level}
    names = tuple(str(head) for head in read.heads)
    return LetterRoles(names, classes, evidence, fixed, boosted, thresholds, UNITS, about)


def evidence_of(
    read: LetterAttention, clusters: tuple[str, ...], level: float
) -> tuple[dict[str, Estimate], tuple[str, ...], tuple[str, ...]]:
    """The numbers behind the classes, the letter that each head attends to most, and the one that it boosts most."""
    options, letters = read.options, read.letters.astype(np.float64)
    total = letters.sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = letters / total[..., None]
        entropy = -np.where(shares > 0, shares * np.log(shares), 0).sum(2) / np.log(options.items)
    means = {
        "letters": total,
        "contents": read.contents.sum(2),
        "right_content": options.of_right(read.contents),
        "last": read.last,
        "evenness": np.where(total > 0, entropy, np.nan),
        "direct": options.of_right(read.said),
    }
    found = {name: estimate(samples, clusters, level) for name, samples in means.items()}
    found["right_focus"] = estimate(options.of_right(letters), clusters, level, scale=total)
    stream = read.stream.astype(np.float64)
    found["gain"] = estimate((read.said * stream).sum(2), clusters, level, scale=(stream**2).sum(2))
    known = [str(letter) for letter in np.unique(options.letters) if (options.letters == letter).any(1).all()]
    if not known:
        missing = np.full(total.shape[1], np.nan)
        nothing = ("",) * total.shape[1]
        return {**found, **dict.fromkeys(("fixed_focus", "boost"), Estimate(*[missing] * 3))}, nothing, nothing
    focus = [estimate(_of_letter(read, letters, letter), clusters, level, scale=total) for letter in known]
    found["fixed_focus"], fixed = _largest(focus, known)
    found["boost"], boosted = _largest([_boost(read, letter, clusters, level) for letter in known], known)
    return {name: found[name] for name in UNITS}, fixed, boosted


def _of_letter(read: LetterAttention, values: np.ndarray, letter: str) -> np.ndarray:
    """[prompt, head]: what belongs to this letter, wherever it stands."""
    return (values * (read.options.letters == letter)[:, None]).sum(2)


def _boost(read: LetterAttention, letter: str, clusters: tuple[str, ...], level: float) -> Estimate:
    """What each head writes for a letter, where it is wrong or where it is right, whichever is less."""
    own = _of_letter(read, read.said, letter)
    right = ((read.options.letters == letter) & read.options.is_right).any(1)
    sides = [estimate(np.where(where[:, None], own, np.nan), clusters, level) for where in (right, ~right)]
    # a letter that is never right, or always, is not seen on both sides
    first, second = (side.value for side in sides)
    lesser = np.where(np.isnan(first + second), np.nan, np.where(first <= second, 0, 1))
    return _picked(sides, lesser)


def _largest(each: Sequence[Estimate], names: Sequence[str]) -> tuple[Estimate, tuple[str, ...]]:
    """Per head, the estimate with the largest value, and the name that goes with it."""
    values = np.stack([one.value for one in each])
    at = np.where(np.isnan(values).all(0), np.nan, np.where(np.isnan(values), -np.inf, values).argmax(0))
    return _picked(each, at), tuple("" if np.isnan(one) else names[int(one)] for one in at)


def _picked(each: Sequence[Estimate], at: np.ndarray) -> Estimate:
    """Per head, the estimate of this number; NaN where there is none."""
    where, heads, missing = np.nan_to_num(at).astype(int), np.arange(len(at)), np.isnan(at)
    fields = (np.stack([getattr(one, name) for one in each])[where, heads] for name in ("value", "low", "high"))
    return Estimate(*(np.where(missing, np.nan, one) for one in fields))


def _classes(evidence: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> list[str]:
    """The first class whose rule a head meets; what is NaN meets none."""
    on_letters = evidence["letters"] >= thresholds["attention"]
    rules = (
        on_letters & (evidence["right_focus"] >= thresholds["focus"]),
        (on_letters & (evidence["fixed_focus"] >= thresholds["focus"])) | (evidence["boost"] >= thresholds["boost"]),
        on_letters & (evidence["evenness"] >= thresholds["evenness"]),
        (evidence["last"] >= thresholds["last"]) & (evidence["gain"] >= thresholds["gain"]),
        np.ones(len(on_letters), bool),
    )
    return [CLASSES[next(at for at, met in enumerate(row) if met)] for row in zip(*rules, strict=True)]
