"""Question kinds: is a question about a person, a place, a number or a date? Questions: data/tasks/question_kinds.toml.

A generated stand-in for the coarse classes of TREC (Li and Roth, 2002), on which attention calibration was measured
(arXiv 2406.15765).
"""

from collections.abc import Sequence
from random import Random

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_prompts import ChoicePrompt
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templates import chosen, deal, read, turns
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
    templates = chosen("question kinds", "template", templates, found["templates"])
    rng = Random(seed)
    decks = {(template, kind): deal(rng, found[kind]) for template in templates for kind in KINDS}
    prompts = []
    for template, kind in turns(n, templates, KINDS):
        text = found["templates"][template].format(question=next(decks[template, kind]))
        prompts.append(ChoicePrompt(text, [f" {word}" for word in KINDS], f" {kind}", template, prepend_bos))
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return ChoiceTask.from_prompts(model, prompts, name="question_kinds", details=details)
