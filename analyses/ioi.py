"""Indirect object identification (arXiv 2211.00593): two people appear, one acts, who is the other one?

Clean: "When Mary and John went to the store, John gave a drink to" -> " Mary". The corrupted prompt replaces
the second mention of the subject (S2), by a third person ("abc": no name repeats, so nothing says who comes
next) or by the indirect object ("swap": the answer flips). Templates and word lists: data/tasks/ioi.toml.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from headlens.analyses.pairs import Pair
from headlens.analyses.task import Task
from headlens.analyses.templates import chosen, read, render, turns, words_that_fit
from headlens.analyses.tokens import check_twins, lead_in, position_of, tokenizer_of
from headlens.hooks.model import Model

CORRUPTIONS = ("abc", "swap")
ORDERS = ("ABBA", "BABA")


@dataclass(frozen=True)
class Words:
    """Templates by id, and what fills them."""

    templates: dict[str, str]
    names: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]


class Cast(NamedTuple):
    """Who and what one prompt is about. `third` appears only in corrupted prompts."""

    io: str
    subject: str
    third: str
    place: str
    object: str


@cache
def all_words() -> Words:
    """The templates and word lists that come with headlens."""
    found = read("ioi")
    return Words(found["templates"], tuple(found["names"]), tuple(found["places"]), tuple(found["objects"]))


def ioi(
    model: Model | PreTrainedTokenizerBase,
    n: int = 64,
    seed: int = 0,
    *,
    corruption: str = "abc",
    orders: str | Sequence[str] = ORDERS,
    templates: str | Sequence[str] | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Indirect object identification (arXiv 2211.00593): to whom did John give a drink?

    n prompts such as "When Mary and John went to the store, John gave a drink to", with the answer " Mary" (IO)
    and the foil " John" (S). The corrupted prompt differs in one token, the second mention of the subject (S2):
    with "abc" a third name stands there, so that nothing says who comes next; with "swap" the IO, so that the
    answer flips. Positions IO, S1, S1+1, S2 and END. `templates` are ids from data/tasks/ioi.toml (None: all),
    `orders` who is named first (ABBA: the IO); both take turns. Names, places and objects that are not one token
    for this tokenizer are left out. `prepend_bos` None follows the tokenizer. No prompt comes twice as long as
    there are others. Equal arguments give equal tasks, whichever the corruption: only S2 of the corrupted
    prompts depends on it.
    """
    chosen("IOI", "corruption", corruption, CORRUPTIONS)
    orders = chosen("IOI", "order", orders, ORDERS)
    templates = chosen("IOI", "template", templates, all_words().templates)
    tokenizer = tokenizer_of(model)
    words = _fitting(tokenizer, templates)
    rng, seen, pairs = Random(seed), set(), []
    for template, order in turns(n, templates, orders):
        for _ in range(100):
            cast = _draw(rng, words)
            drawn = (template, order, cast._replace(third=""))
            if drawn not in seen:
                break
        seen.add(drawn)
        pairs.append(_pair(tokenizer, template, order, cast, corruption, prepend_bos))
    details = {"n": n, "seed": seed, "corruption": corruption, "orders": [*orders], "templates": [*templates]}
    return Task.from_pairs(model, pairs, name="ioi", details=details)


def _fitting(tokenizer: PreTrainedTokenizerBase, templates: Sequence[str]) -> Words:
    """The templates asked for, and the words that are one token wherever these would put them."""
    words = all_words()
    texts = {template: words.templates[template] for template in templates}
    example = {"first": "Mary", "second": "John", "S2": "John", "place": "store", "object": "drink"}

    def that_fit(kind: str, slot: str, needed: int) -> tuple[str, ...]:
        prompts = [text.split(f" {{{slot}}}")[0].format(**example) for text in texts.values()]
        return words_that_fit(tokenizer, f"IOI {kind}", getattr(words, kind), prompts, needed)

    # No template has a slot "answer", so that names are tried where it goes: behind the last word.
    names, places = that_fit("names", "answer", 3), that_fit("places", "place", 1)
    return Words(texts, names, places, that_fit("objects", "object", 1))


def _draw(rng: Random, words: Words) -> Cast:
    """Three different people, a place and an object.

    Only `Random.random` is used, whose numbers for a seed are the same on every platform and Python version.
    """

    def pick(items: list[str]) -> str:
        return items.pop(int(rng.random() * len(items)))

    people = list(words.names)
    return Cast(pick(people), pick(people), pick(people), pick(list(words.places)), pick(list(words.objects)))


def _pair(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    order: str,
    cast: Cast,
    corruption: str,
    prepend_bos: bool | None,
) -> Pair:
    text = all_words().templates[template]
    io, subject = ("first", "second") if order == "ABBA" else ("second", "first")
    slots = {io: cast.io, subject: cast.subject, "S2": cast.subject, **cast._asdict()}
    clean, spans = render(text, slots)
    corrupted, _ = render(text, {**slots, "S2": cast.third if corruption == "abc" else cast.io})
    at = {"IO": io, "S1": subject, "S2": "S2"}
    positions = {name: position_of(tokenizer, clean, *spans[slot]) for name, slot in at.items()}
    check_twins(tokenizer, clean, corrupted, range(positions["S2"], positions["S2"] + 1))
    positions["S1+1"] = positions["S1"] + 1
    before = len(lead_in(tokenizer, prepend_bos))
    return Pair(
        clean=clean,
        corrupted=corrupted,
        answer=f" {cast.io}",
        foil=f" {cast.subject}",
        positions={name: before + position for name, position in positions.items()},
        template=f"{template} {order}",
        prepend_bos=prepend_bos,
    )
