"""Does a head follow the n-th option or its letter? The same prompts with their letters changed (2307.09458)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headlens.analyses.comparison import compare
from headlens.analyses.headmap import HeadMap
from headlens.analyses.multiple_choice.estimates import estimate
from headlens.analyses.multiple_choice.letter_attention import LetterAttention, letter_attention
from headlens.analyses.multiple_choice.output_nodes import output_nodes
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.hooks.model import Model

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class LetterMutations:
    """What heads attend to, and how well the model answers, with other letters in front of the same options.

    `position` and `label` [prompt, head] are 1 where the most attended option stands at the same place as in the base
    prompt, or has the same letter, and NaN where the two cannot be told apart. `right` [prompt] is 1 where the right
    letter is the likeliest of the letters; `effects` are the direct effects of all heads.
    """

    heads: tuple[str, ...]
    position: Mapping[str, np.ndarray]
    label: Mapping[str, np.ndarray]
    right: Mapping[str, np.ndarray]  # "base" and each mutation
    effects: Mapping[str, HeadMap]
    clusters: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def heads_frame(self, level: float = 0.95) -> "pandas.DataFrame":
        """One row per mutation and head, shares of prompts: position_match, label_match, and label_minus_position, with
        bounds; prompts: how many tell them apart; and nth_item_falsified: whether the letter is followed more often
        than the place, with `sure` where the interval of the difference lies above 0."""
        import pandas

        tables = []
        for name, position in self.position.items():
            label = self.label[name]
            apart = estimate(label - position, self.clusters, level)
            columns = {
                "mutation": name,
                "head": self.heads,
                "prompts": (~np.isnan(position)).sum(0),
                **estimate(position, self.clusters, level).columns("position_match"),
                **estimate(label, self.clusters, level).columns("label_match"),
                **apart.columns("label_minus_position"),
                "nth_item_falsified": apart.value > 0,
                "sure": apart.low > 0,
            }
            tables.append(pandas.DataFrame(columns))
        return pandas.concat(tables, ignore_index=True)

    def to_frame(self, level: float = 0.95) -> "pandas.DataFrame":
        """One row per task: accuracy (share of prompts), its difference from the base task's on the same prompts, and
        the rank correlation (Spearman) of all heads' direct effects with the base task's, each with bounds."""
        import pandas

        rows = []
        for name, right in self.right.items():
            row: dict[str, Any] = {"mutation": name}
            for column, samples in {"accuracy": right, "accuracy_change": right - self.right["base"]}.items():
                row |= {
                    key: float(each) for key, each in estimate(samples, self.clusters, level).columns(column).items()
                }
            found = compare(self.effects["base"], self.effects[name], level=level)
            bounds = found.correlation_interval
            row |= {"rank_correlation": found.correlation}
            row |= {
                f"rank_correlation_{end}": np.nan if bounds is None else float(getattr(bounds, end)) for end in ENDS
            }
            rows.append(row)
        return pandas.DataFrame(rows)


ENDS = ("low", "high")


def letter_mutations(
    model: Model,
    base: Task,
    mutated: Mapping[str, Task],
    heads: Sequence[Any] | str,
    memory: str | int = "1GiB",
) -> LetterMutations:
    """Compare what heads attend to at END of the same prompts under other letters (2307.09458).

        base = lettered(model, n=64)
        mutated = {name: lettered(model, n=64, mutation=name) for name in ("shuffled", "relettered")}

    For each prompt and head the most attended option is the one whose letter has most of END's attention. Under a
    mutation it may stand at the place of the option that was attended in the base prompt (position-match), or have its
    letter (label-match). Both are asked only where they would be different options, or where the letter is gone: the
    label-match is 0 then. The account that heads find the "n-th item" is falsified for a head whose label-match exceeds
    its position-match.

    Contents stay where they are, so a head that finds the option by its content matches positions too: a
    position-match is no evidence against content. That is told by `letter_roles` on the base task.

    Returns:
        LetterMutations: `.heads_frame()` (matches), `.to_frame()` (accuracy and rank correlation). The direct effects
        that are correlated are those of `output_nodes`; base and mutated prompts are resampled independently there,
        since they are different prompts, and jointly in all else.

    Raises:
        ValueError: for no mutations, one that is named "base", or tasks that are not the same prompts up to letters.
    """
    if not mutated or "base" in mutated:
        raise ValueError(f"The mutations {[*mutated]} were given; expected one or more, none of which is 'base'.")
    for name, task in mutated.items():
        _refuse_others(base, task, name)
    tasks = {"base": base, **mutated}
    read = {name: letter_attention(model, task, heads, memory) for name, task in tasks.items()}
    effects = {name: output_nodes(model, task, 0, memory=memory).headmap() for name, task in tasks.items()}
    matches = {name: matches_of(read["base"], read[name]) for name in mutated}
    about = {**origin(model, base), "run": "clean", "paper": "2307.09458"}
    about |= {"mutations": {name: {"task_hash": task.hash, **task.details} for name, task in mutated.items()}}
    return LetterMutations(
        tuple(map(str, read["base"].heads)),
        {name: position for name, (position, _) in matches.items()},
        {name: label for name, (_, label) in matches.items()},
        {name: each.right.astype(np.float64) for name, each in read.items()},
        effects,
        base.templates,
        about,
    )


def matches_of(base: LetterAttention, mutated: LetterAttention) -> tuple[np.ndarray, np.ndarray]:
    """Position-match and label-match [prompt, head]; NaN where the attended option kept its letter."""
    rows = np.arange(len(base.letters))[:, None]
    before, after = base.letters.argmax(2), mutated.letters.argmax(2)
    wanted = base.options.letters[rows, before]
    alike = mutated.options.letters[rows, before] == wanted
    position, label = after == before, mutated.options.letters[rows, after] == wanted
    return np.where(alike, np.nan, position), np.where(alike, np.nan, label)


def _refuse_others(base: Task, task: Task, name: str) -> None:
    """ValueError unless both tasks have the same options at the same positions, and the same ones are right."""
    alike = {*base.positions} == {*task.positions} and len(base) == len(task)
    if alike:
        alike = all(torch.equal(base.positions[at], task.positions[at]) for at in base.positions)
    if alike:
        contents = torch.stack([where for at, where in base.positions.items() if at.startswith("O")], 1)
        alike = torch.equal(base.clean_tokens.gather(1, contents), task.clean_tokens.gather(1, contents))
    if not alike:
        raise ValueError(
            f"The task under {name!r} does not have the base task's options at the same positions; make both with the "
            "same n, seed and shots, such as lettered(model, n=64, mutation='shuffled')."
        )
