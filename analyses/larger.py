"""Larger: two things are named; which is the larger one? Things and sentences: data/tasks/larger.toml."""

from collections.abc import Sequence
from itertools import product
from random import Random

from transformers import PreTrainedTokenizerBase

from headlens.analyses.choice_prompts import ChoicePrompt
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.templates import chosen, deal, read, turns, words_that_fit
from headlens.analyses.tokens import tokenizer_of
from headlens.hooks.model import Model

ORDERS = ("larger first", "larger second")
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
    rng = Random(seed)
    decks = {(template, order): deal(rng, pairs) for template in templates for order in ORDERS}
    prompts = []
    for template, order in turns(n, templates, ORDERS):
        large, small = next(decks[template, order])
        first, second = (large, small) if order == "larger first" else (small, large)
        text = found["templates"][template].format(first=first, second=second)
        prompts.append(ChoicePrompt(text, [f" {first}", f" {second}"], f" {large}", template, prepend_bos))
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return ChoiceTask.from_prompts(model, prompts, name="larger", details=details)


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
