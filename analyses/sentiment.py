"""Sentiment: a review says one good and one bad thing; what does it come to? Sentences: data/tasks/sentiment.toml.

A generated stand-in for SST-2, on which attention calibration was measured (arXiv 2406.15765).
"""

from collections.abc import Sequence
from itertools import product
from random import Random

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_prompts import ChoicePrompt
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templates import chosen, deal, read, turns
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
    templates = chosen("sentiment", "template", templates, found["templates"])
    rng = Random(seed)
    decks = {
        (template, answer): deal(rng, [*product(found["things"], found[answer], found[OTHER[answer]])])
        for template in templates
        for answer in OTHER
    }
    prompts = []
    for template, answer in turns(n, templates, [*OTHER]):
        thing, verdict, however = next(decks[template, answer])
        text = found["templates"][template].format(thing=thing, verdict=verdict, however=however)
        prompts.append(ChoicePrompt(text, [f" {word}" for word in OTHER], f" {answer}", template, prepend_bos))
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return ChoiceTask.from_prompts(model, prompts, name="sentiment", details=details)
