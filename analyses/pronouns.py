"""Gendered pronouns: somebody is named; he or she? Names and templates: data/tasks/pronouns.toml.

The task is that of Mathwin and Corlouer, "Identifying a Preliminary Circuit for Predicting Gendered Pronouns in GPT-2
Small" (2023), who corrupt the name to "That person"; here it becomes a name of the other gender.
"""

from collections.abc import Sequence
from random import Random

from transformers import PreTrainedTokenizerBase

from headlens.analyses.pairs import Pair
from headlens.analyses.task import Task
from headlens.analyses.templates import chosen, deal, read, render, turns, words_that_fit
from headlens.analyses.tokens import check_twins, lead_in, position_of, tokenizer_of
from headlens.hooks.model import Model

OTHER = {"he": "she", "she": "he"}


def pronouns(
    model: Model | PreTrainedTokenizerBase,
    n: int = 64,
    seed: int = 0,
    *,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Gendered pronouns (Mathwin and Corlouer, 2023): somebody is named; he or she?

    n prompts such as "So Peter is quite a fast swimmer, isn't", with the answer " he" and the foil " she", or the
    reverse. The corrupted prompt has a name of the other gender in its place, so that the answer flips. Names that
    are not one token for this tokenizer are left out.

    Positions NAME and END. `templates` are ids from data/tasks/pronouns.toml (None: all); they and the genders take
    turns. `prepend_bos` None follows the tokenizer. No clean prompt comes twice before all have come. Equal arguments
    give equal tasks.
    """
    texts = read("pronouns")["templates"]
    templates = chosen("pronouns", "template", templates, texts)
    tokenizer = tokenizer_of(model)
    names = _fitting_names(tokenizer, [texts[template] for template in templates])
    rng = Random(seed)
    decks = {(template, answer): deal(rng, names[answer]) for template in templates for answer in OTHER}
    pairs = []
    for template, answer in turns(n, templates, [*OTHER]):
        name, others = next(decks[template, answer]), names[OTHER[answer]]
        other = others[int(rng.random() * len(others))]
        pairs.append(_pair(tokenizer, template, texts[template], answer, name, other, prepend_bos))
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return Task.from_pairs(model, pairs, name="pronouns", details=details)


def _fitting_names(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names by the pronoun they ask for, where both pronouns are tokens too."""
    words_that_fit(tokenizer, "pronouns", [*OTHER], [text.format(name="Mary") for text in texts], needed=2)
    stems = [text.split(" {name}")[0] for text in texts]
    return {
        answer: words_that_fit(tokenizer, f"names for {answer!r}", read("pronouns")[answer], stems, needed=1)
        for answer in OTHER
    }


def _pair(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    text: str,
    answer: str,
    name: str,
    other: str,
    prepend_bos: bool | None,
) -> Pair:
    clean, spans = render(text, {"name": name})
    corrupted, _ = render(text, {"name": other})
    position = position_of(tokenizer, clean, *spans["name"])
    check_twins(tokenizer, clean, corrupted, range(position, position + 1))
    return Pair(
        clean=clean,
        corrupted=corrupted,
        answer=f" {answer}",
        foil=f" {OTHER[answer]}",
        positions={"NAME": len(lead_in(tokenizer, prepend_bos)) + position},
        template=f"{template} {answer}",
        prepend_bos=prepend_bos,
    )
