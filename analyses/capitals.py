"""Capitals: a country is named; what is its capital? Countries, capitals and templates: data/tasks/capitals.toml."""

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from transformers import PreTrainedTokenizerBase

from headlens.analyses.pairs import Pair
from headlens.analyses.task import Task
from headlens.analyses.templates import chosen, deal, read, render, turns, words_that_fit
from headlens.analyses.tokens import added_tokens, check_twins, lead_in, span_of, tokenizer_of
from headlens.hooks.model import Model


def capitals(
    model: Model | PreTrainedTokenizerBase,
    n: int = 64,
    seed: int = 0,
    *,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Capitals: a country is named; what is its capital?

    n prompts such as "The capital of France is the city of", with the answer " Paris". The corrupted prompt names
    another country of as many tokens, whose capital is the foil, so that the answer flips. Countries whose capital
    is not one token for this tokenizer are left out, and so are those that no other country equals in tokens.

    Positions COUNTRY, the country's last token, and END. `templates` are ids from data/tasks/capitals.toml (None:
    all), and take turns. `prepend_bos` None follows the tokenizer. No clean prompt comes twice before all have come.
    Equal arguments give equal tasks.
    """
    texts = read("capitals")["templates"]
    templates = chosen("capitals", "template", templates, texts)
    tokenizer = tokenizer_of(model)
    alike = _countries_alike(tokenizer, [texts[template] for template in templates])
    rng = Random(seed)
    decks = {template: deal(rng, [*alike]) for template in templates}
    pairs = []
    for template, _ in turns(n, templates):
        country = next(decks[template])
        others = alike[country]
        other = others[int(rng.random() * len(others))]
        pairs.append(_pair(tokenizer, template, texts[template], country, other, prepend_bos))
    details = {"n": n, "seed": seed, "templates": [*templates]}
    return Task.from_pairs(model, pairs, name="capitals", details=details)


def _countries_alike(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, list[str]]:
    """Each country with a capital of one token, and the others of as many tokens; those without others left out."""
    capital_of = read("capitals")["capitals"]
    prompts = [text.format(country="France") for text in texts]
    known = {*words_that_fit(tokenizer, "capitals", [*capital_of.values()], prompts, needed=2)}
    stems = [text.split(" {country}")[0] for text in texts]
    by_length = defaultdict(list)
    for country, capital in capital_of.items():
        lengths = {len(added_tokens(tokenizer, stem, f" {country}")) for stem in stems}
        if capital in known and len(lengths) == 1 and lengths != {0}:
            by_length[lengths.pop()].append(country)
    found = {
        country: [other for other in group if other != country]
        for group in by_length.values()
        for country in group
        if len(group) > 1
    }
    if not found:
        raise ValueError(
            f"No two countries with capitals of one token have equally many tokens for this tokenizer "
            f"({len(tokenizer)} tokens); build a task from your own prompts with Task.from_pairs."
        )
    return found


def _pair(
    tokenizer: PreTrainedTokenizerBase, template: str, text: str, country: str, other: str, prepend_bos: bool | None
) -> Pair:
    capital_of = read("capitals")["capitals"]
    clean, spans = render(text, {"country": country})
    corrupted, _ = render(text, {"country": other})
    span = span_of(tokenizer, clean, *spans["country"])
    check_twins(tokenizer, clean, corrupted, span)
    return Pair(
        clean=clean,
        corrupted=corrupted,
        answer=f" {capital_of[country]}",
        foil=f" {capital_of[other]}",
        positions={"COUNTRY": len(lead_in(tokenizer, prepend_bos)) + span[-1]},
        template=template,
        prepend_bos=prepend_bos,
    )
