"""Larger: two things are named; which is the larger one? Things and sentences: data/tasks/larger.toml."""

from collections.abc import Sequence
from itertools import product

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templated_choices import Card, templated_choices
from headlens.analyses.templates import chosen, read, words_that_fit
from headlens.analyses.tokens import tokenizer_of
from headlens.hooks.model import Model

# How many lists apart two things are at least, so that nobody would doubt which is larger.
APART = 4


def larger(
    model: Model | PreTrainedTokenizerBase,
    n: int = 400,
    seed: int = 0,
    *,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> ChoiceTask:
    """Larger: two things are named, such as a whale and a key; which of them is the big one?

    n prompts such as "A whale and a key: that was all there was in the picture. In the background, one could see the
    big", with the choices " whale" (here right) and " key", in the order in which they are named. Things that are not
    one token for this tokenizer are left out.

    `templates` are ids from data/tasks/larger.toml (None: all); they, and whether the larger thing is named first, take
    turns. `prepend_bos` None follows the tokenizer. No prompt comes twice before all have come. Equal arguments give
    equal tasks.
    """
    found = read("larger")
    templates = chosen("larger", "template", templates, found["templates"])
    pairs = _pairs(tokenizer_of(model), found["sizes"], [found["templates"][template] for template in templates])
    cards = {
        "larger first": [_card(large, small, answer=large) for large, small in pairs],
        "larger second": [_card(small, large, answer=large) for large, small in pairs],
    }
    return templated_choices(model, "larger", cards, n, seed, templates, prepend_bos)


def _card(first: str, second: str, answer: str) -> Card:
    item = " and ".join(sorted([first, second]))
    return Card({"first": first, "second": second}, [first, second], answer, item)


def _pairs(
    tokenizer: PreTrainedTokenizerBase, sizes: Sequence[Sequence[str]], texts: Sequence[str]
) -> list[tuple[str, str]]:
    """All things, the larger one first, that are APART and each one token behind every template."""
    ends = [text.format(first="cat", second="dog") for text in texts]
    words = [word for size in sizes for word in size]
    known = {*words_that_fit(tokenizer, "things to compare", words, ends, needed=2)}
    pairs = [
        (large, small)
        for low, high in product(range(len(sizes)), repeat=2)
        if high - low >= APART
        for large, small in product(sizes[high], sizes[low])
        if {large, small} <= known
    ]
    if not pairs:
        raise ValueError(
            f"Of the {len(known)} things that are single tokens of this tokenizer, no two differ clearly in size; "
            "build a task from your own prompts with ChoiceTask.from_prompts."
        )
    return pairs
