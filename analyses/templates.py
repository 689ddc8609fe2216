"""Prompts from templates: their texts and words, which of these a tokenizer can take, and whose turn it is."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from random import Random
from string import Formatter
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from headlens.analyses.tokens import continuation
from headlens.hooks.nearest import did_you_mean

Card = TypeVar("Card")


@cache
def read(task: str) -> dict[str, Any]:
    """What data/tasks/TASK.toml holds, its templates as texts by id."""
    found = tomllib.loads(files("headlens.data").joinpath(f"tasks/{task}.toml").read_text(encoding="utf-8"))
    return {**found, "templates": {entry["id"]: entry["text"] for entry in found["templates"]}}


def chosen(task: str, what: str, given: str | Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The names given (None: all that are known; one by itself: that one); ValueError for others, or none."""
    known = tuple(known)
    if given is None:
        return known
    given = (given,) if isinstance(given, str) else tuple(given)
    if not given:
        raise ValueError(f"No {task} {what} was given; choose from {', '.join(known)}.")
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"Unknown {task} {what} {name!r}{hint}; choose from {', '.join(known)}.")
    return given


def render(template: str, slots: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The filled template, and from which character to which each slot's word stands in it."""
    text, spans = "", {}
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal
        if slot is not None:
            spans[slot] = (len(text), len(text) + len(slots[slot]))
            text += slots[slot]
    return text, spans


def words_that_fit(
    tokenizer: PreTrainedTokenizerBase, what: str, words: Sequence[str], prompts: Sequence[str], needed: int
) -> tuple[str, ...]:
    """The words that add one and the same token to every prompt, no two of them the same token.

    ValueError says how many of `what` were found if fewer than needed.
    """
    fitting: dict[int, str] = {}
    for word in words:
        tokens = {continuation(tokenizer, prompt, f" {word}") for prompt in prompts}
        token = tokens.pop()
        if not tokens and token is not None:
            fitting.setdefault(token, word)
    if len(fitting) < needed:
        raise ValueError(
            f"Only {len(fitting)} of the {len(words)} {what} are single tokens of this tokenizer "
            f"({len(tokenizer)} tokens), and {needed} or more are needed; "
            "build a task from your own prompts with Task.from_pairs or ChoiceTask.from_prompts."
        )
    return tuple(fitting.values())


def turns(n: int, templates: Sequence[str], variants: Sequence[str] = ("",)) -> Iterator[tuple[str, str]]:
    """n times a template and a variant of it: templates take turns, and so do the variants of each."""
    if n < 1:
        raise ValueError(f"n={n} prompts were asked for; give at least 1.")
    for prompt in range(n):
        turn, at = divmod(prompt, len(templates))
        yield templates[at], variants[(at + turn) % len(variants)]


def deal(rng: Random, cards: Sequence[Card]) -> Iterator[Card]:
    """The cards in random order, for ever: none comes again before all have come.

    Only `Random.random` is used, whose numbers for a seed are the same on every platform and Python version.
    """
    while True:
        deck = list(cards)
        while deck:
            at = int(rng.random() * len(deck))
            deck[at], deck[-1] = deck[-1], deck[at]
            yield deck.pop()
