"""Question kinds: is a question about a person, a place, a number or a date? Questions: data/tasks/question_kinds.toml.

A generated stand-in for the coarse classes of TREC (Li and Roth, 2002), on which attention calibration was measured
(arXiv 2406.15765).
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templated_choices import Card, templated_choices
from headlens.analyses.templates import read
from headlens.hooks.model import Model

KINDS = ("person", "place", "number", "date")


def question_kinds(
    model: Model | PreTrainedTokenizerBase,
    n: int = 400,
    seed: int = 0,
    *,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> ChoiceTask:
    """Question kinds: a question is asked; does it want a person, a place, a number or a date?

    n prompts such as "A pupil wrote on the board: \\"Where do the birds spend the winter?\\"\\nWhat he wanted to hear
    was a", with the choices " person", " place" (here right), " number" and " date".

    `templates` are ids from data/tasks/question_kinds.toml (None: all); they and the kinds take turns. `prepend_bos`
    None follows the tokenizer. No prompt comes twice before all have come. Equal arguments give equal tasks.
    """
    found = read("question_kinds")
    cards = {kind: [Card({"question": asked}, KINDS, kind, item=asked) for asked in found[kind]] for kind in KINDS}
    return templated_choices(model, "question_kinds", cards, n, seed, templates, prepend_bos)
