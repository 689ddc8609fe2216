"""Prompts with choices from the templates of a file: what the makers in headlens.analyses.choice_tasks share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_prompts import ChoicePrompt
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templates import chosen, deal, read, turns
from headlens.hooks.model import Model


@dataclass(frozen=True)
class Card:
    """What fills a template: a text for each slot, the choices without their spaces, the right one, and the item, a
    label of what is asked whatever the template."""

    slots: Mapping[str, str]
    choices: Sequence[str]
    answer: str
    item: str


def templated_choices(
    model: Model | PreTrainedTokenizerBase,
    name: str,
    cards: Mapping[str, Sequence[Card]],
    n: int,
    seed: int,
    templates: str | Sequence[str] | None,
    prepend_bos: bool | None,
) -> ChoiceTask:
    """The task of this name: n prompts from the templates of data/tasks/NAME.toml, filled with cards.

    Templates take turns, and within each so do the kinds of cards; those of a kind come in random order, none of them
    twice in a template before all have come. ValueError for n below 1 or a template that is not there.
    """
    texts = read(name)["templates"]
    templates = chosen(name.replace("_", " "), "template", templates, texts)
    rng = Random(seed)
    decks = {(template, kind): deal(rng, cards[kind]) for template in templates for kind in cards}
    prompts = []
    for template, kind in turns(n, templates, [*cards]):
        card = next(decks[template, kind])
        prompts.append(
            ChoicePrompt(
                prompt=texts[template].format(**card.slots),
                choices=[f" {word}" for word in card.choices],
                answer=f" {card.answer}",
                template=template,
                item=card.item,
                prepend_bos=prepend_bos,
            )
        )
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return ChoiceTask.from_prompts(model, prompts, name=name, details=details)
