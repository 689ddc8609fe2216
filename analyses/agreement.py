"""Agreement with attractors (arXiv 1611.01368): is or are? Sentences: data/tasks/agreement.toml."""

from collections.abc import Sequence
from itertools import permutations, product

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templated_choices import Card, templated_choices
from headlens.analyses.templates import read
from headlens.hooks.model import Model

VERBS = ("is", "are")


def agreement(
    model: Model | PreTrainedTokenizerBase,
    n: int = 400,
    seed: int = 0,
    *,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> ChoiceTask:
    """Agreement with attractors (arXiv 1611.01368): the subject is far from its verb; is or are?

    n prompts such as "Nobody spoke for a while. Then, to everyone's surprise, the key that the teachers of the guests
    brought from the market", with the choices " is" (here right) and " are". All nouns between the subject and the
    verb have the other number.

    `templates` are ids from data/tasks/agreement.toml (None: all); they and the verbs take turns. `prepend_bos` None
    follows the tokenizer. No prompt comes twice before all have come. Equal arguments give equal tasks.
    """
    found = read("agreement")
    subjects, people = ([*found[key].items()] for key in ("subjects", "people"))
    nouns = [(subject, *pair) for subject, pair in product(subjects, permutations(people, 2))]
    cards = {verb: [_card(verb, *three) for three in nouns] for verb in VERBS}
    return templated_choices(model, "agreement", cards, n, seed, templates, prepend_bos)


def _card(verb: str, subject: Sequence[str], person: Sequence[str], other: Sequence[str]) -> Card:
    """Each noun is given as its singular and plural, in the order of the verbs."""
    right = VERBS.index(verb)
    slots = {"subject": subject[right], "person": person[1 - right], "other": other[1 - right]}
    return Card(slots, VERBS, verb, item=", ".join(slots.values()))
