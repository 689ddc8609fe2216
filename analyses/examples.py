"""Solved examples in front of a question: how many, and with words that the question does not use."""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from headlens.analyses.templates import Card, deal


def check_shots(shots: int) -> None:
    """ValueError for a negative number of examples."""
    if shots < 0:
        raise ValueError(f"shots={shots} solved examples were asked for; give 0 or more.")


def without(cards: Sequence[Card], taken: Sequence[Card]) -> list[Card]:
    """The cards that were not taken, in their order."""
    return [card for card in cards if card not in taken]


def hands(rng: Random, cards: Sequence[Card], size: int) -> Iterator[list[Card]]:
    """Hands of `size` different cards, for ever: a card comes again only when fewer than a hand are left.

    There must be `size` cards or more.
    """
    while True:
        deck = [*islice(deal(rng, cards), len(cards))]
        for start in range(0, len(deck) - size + 1, size):
            yield deck[start : start + size]
