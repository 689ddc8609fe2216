"""Sentiment: a review says one good and one bad thing; what does it come to? Sentences: data/tasks/sentiment.toml.

A generated stand-in for SST-2, on which attention calibration was measured (arXiv 2406.15765).
"""

from collections.abc import Sequence
from itertools import product

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templated_choices import Card, templated_choices
from headlens.analyses.templates import read
from headlens.hooks.model import Model

OTHER = {"positive": "negative", "negative": "positive"}


def sentiment(
    model: Model | PreTrainedTokenizerBase,
    n: int = 400,
    seed: int = 0,
    *,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> ChoiceTask:
    """Sentiment: a review grants one thing and holds another; is it positive or negative?

    n prompts such as "Review: We tried the hotel last week. At first the staff were rude, but in the end it was worth
    every cent.\\nSentiment:", with the choices " positive" (here right) and " negative".

    `templates` are ids from data/tasks/sentiment.toml (None: all); they and the answers take turns. `prepend_bos` None
    follows the tokenizer. No prompt comes twice before all have come. Equal arguments give equal tasks.
    """
    found = read("sentiment")
    cards = {
        answer: [_card(answer, *three) for three in product(found["things"], found[answer], found[other])]
        for answer, other in OTHER.items()
    }
    return templated_choices(model, "sentiment", cards, n, seed, templates, prepend_bos)


def _card(answer: str, thing: str, verdict: str, however: str) -> Card:
    slots = {"thing": thing, "verdict": verdict, "however": however}
    return Card(slots, [*OTHER], answer, item=f"{thing}: {verdict}, though {however}")
