"""Agreement with attractors (arXiv 1611.01368): is or are? Sentences: data/tasks/agreement.toml."""

from collections.abc import Sequence
from itertools import permutations, product
from random import Random

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_prompts import ChoicePrompt
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templates import chosen, deal, read, turns
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
    templates = chosen("agreement", "template", templates, found["templates"])
    subjects, people = ([*found[key].items()] for key in ("subjects", "people"))
    cards = [(subject, *pair) for subject, pair in product(subjects, permutations(people, 2))]
    rng = Random(seed)
    decks = {(template, verb): deal(rng, cards) for template in templates for verb in VERBS}
    prompts = []
    for template, verb in turns(n, templates, VERBS):
        subject, person, other = next(decks[template, verb])
        # pairs are singular, plural, as the verbs are
        right, wrong = (0, 1) if verb == "is" else (1, 0)
        text = found["templates"][template].format(subject=subject[right], person=person[wrong], other=other[wrong])
        prompts.append(ChoicePrompt(text, [f" {word}" for word in VERBS], f" {verb}", template, prepend_bos))
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return ChoiceTask.from_prompts(model, prompts, name="agreement", details=details)
