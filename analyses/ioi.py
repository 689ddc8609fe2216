"""Indirect object identification (arXiv 2211.00593): two people appear, one acts, who is the other one?

Clean: "When Mary and John went to the store, John gave a drink to" -> " Mary". The corrupted prompt replaces
the second mention of the subject (S2), by a third person ("abc": no name repeats, so nothing says who comes
next) or by the indirect object ("swap": the answer flips). Templates and word lists: data/tasks/ioi.toml.
"""

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from string import Formatter
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from headlens.analyses.pairs import Pair
from headlens.analyses.tokens import continuation, encode, lead_in, position_of

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
    read = tomllib.loads(files("headlens.data").joinpath("tasks/ioi.toml").read_text(encoding="utf-8"))
    templates = {entry["id"]: entry["text"] for entry in read["templates"]}
    return Words(templates, tuple(read["names"]), tuple(read["places"]), tuple(read["objects"]))


def make_pairs(
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    seed: int,
    corruption: str,
    orders: Sequence[str],
    templates: Sequence[str],
    prepend_bos: bool | None,
) -> list[Pair]:
    """n pairs with positions IO, S1, S1+1, S2 and END; templates and orders take turns, no prompt comes twice
    as long as there are others.

    Names, places and objects that are not one token for this tokenizer where they stand are left out.
    """
    if n < 1:
        raise ValueError(f"n={n} prompts were asked for; give at least 1.")
    _check_known("corruption", [corruption], CORRUPTIONS)
    _check_known("order", orders, ORDERS)
    _check_known("template", templates, all_words().templates)
    words = _fitting(tokenizer, templates)
    rng, seen, pairs = Random(seed), set(), []
    for prompt in range(n):
        turn, at = divmod(prompt, len(templates))
        template, order = templates[at], orders[(at + turn) % len(orders)]
        for _ in range(100):
            cast = _draw(rng, words)
            drawn = (template, order, cast._replace(third=""))
            if drawn not in seen:
                break
        seen.add(drawn)
        pairs.append(_pair(tokenizer, template, order, cast, corruption, prepend_bos))
    return pairs


def _check_known(what: str, given: Sequence[str], known: Iterable[str]) -> None:
    choices = list(known)
    if not given:
        raise ValueError(f"No IOI {what} was given; choose from {', '.join(choices)}.")
    for name in given:
        if name not in choices:
            near = difflib.get_close_matches(str(name), choices, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"Unknown IOI {what} {name!r}{hint}; choose from {', '.join(choices)}.")


def _fitting(tokenizer: PreTrainedTokenizerBase, templates: Sequence[str]) -> Words:
    """The templates asked for, and the words that are one token wherever these would put them."""
    words = all_words()
    texts = {template: words.templates[template] for template in templates}
    example = {"first": "Mary", "second": "John", "S2": "John", "place": "store", "object": "drink"}

    def that_fit(kind: str, slot: str, needed: int) -> tuple[str, ...]:
        candidates: tuple[str, ...] = getattr(words, kind)
        prompts = [text.split(f" {{{slot}}}")[0].format(**example) for text in texts.values()]
        found = _one_token(tokenizer, candidates, prompts)
        if len(found) < needed:
            raise ValueError(
                f"Only {len(found)} of the {len(candidates)} IOI {kind} are single tokens of this tokenizer "
                f"({len(tokenizer)} tokens), and {needed} or more are needed; "
                "build a task from your own prompts with Task.from_pairs."
            )
        return found

    # No template has a slot "answer", so that names are tried where it goes: behind the last word.
    names, places = that_fit("names", "answer", 3), that_fit("places", "place", 1)
    return Words(texts, names, places, that_fit("objects", "object", 1))


def _one_token(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], prompts: Sequence[str]) -> tuple[str, ...]:
    """The words that add one and the same token to every prompt, no two of them the same token."""
    fitting: dict[int, str] = {}
    for word in words:
        tokens = {continuation(tokenizer, prompt, f" {word}") for prompt in prompts}
        token = tokens.pop()
        if not tokens and token is not None:
            fitting.setdefault(token, word)
    return tuple(fitting.values())


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
    clean, spans = _render(text, slots)
    corrupted, _ = _render(text, {**slots, "S2": cast.third if corruption == "abc" else cast.io})
    tokens, others = encode(tokenizer, clean), encode(tokenizer, corrupted)
    at = {"IO": io, "S1": subject, "S2": "S2"}
    positions = {name: position_of(tokenizer, clean, *spans[slot]) for name, slot in at.items()}
    differing = [here for here, pair in enumerate(zip(tokens, others, strict=False)) if len({*pair}) == 2]
    if len(tokens) != len(others) or differing != [positions["S2"]]:
        raise ValueError(
            f"This tokenizer changes more than one token between {clean!r} and {corrupted!r}; "
            "build a task from your own prompts with Task.from_pairs."
        )
    positions |= {"S1+1": positions["S1"] + 1, "END": len(tokens) - 1}
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


def _render(template: str, slots: dict[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The filled template, and from which character to which each slot's word stands in it."""
    text, spans = "", {}
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal
        if slot is not None:
            spans[slot] = (len(text), len(text) + len(slots[slot]))
            text += slots[slot]
    return text, spans
