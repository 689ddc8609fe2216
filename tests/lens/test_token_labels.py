"""Tokens under positions: as they are where all prompts agree, marked and with their share where they do not."""

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.token_labels import described, token_labels

TOKENS = [["When", 1.0], ["Mary", 0.125], ["and", 1]]


def a_map(coords, tokens=TOKENS, dim="pos"):
    provenance = {} if tokens is None else {"tokens": tokens}
    values = np.zeros((2, len(coords)))
    names = {"name": "n", "units": "u", "sign": "s", "provenance": provenance}
    return HeadMap(values=values, dims=("layer", dim), coords={dim: coords}, **names)


@pytest.mark.parametrize("dim", ["pos", "query", "key"])
def test_a_token_goes_with_its_position_and_not_with_its_place_in_the_map(dim):
    headmap = a_map((2, 1, 0), dim=dim).sel(**{dim: [1, 2]})
    assert token_labels(headmap, dim) == [("Mary…", "in 12% of prompts"), ("and", "")]
    assert token_labels(headmap, "layer") is None


def test_named_positions_and_those_beyond_the_list_have_none():
    assert token_labels(a_map((2, "END", 3, -1)), "pos") == [("and", ""), ("", ""), ("", ""), ("", "")]
    assert token_labels(a_map(("S2", "END")), "pos") is None


@pytest.mark.parametrize("tokens", [None, "When", 3, [], [["When"], None, [1, 2]], {"0": "When"}])
def test_a_map_that_does_not_know_its_tokens_has_none(tokens):
    assert token_labels(a_map((0, 1, 2), tokens), "pos") is None


@pytest.mark.parametrize(
    ("share", "remark"),
    [(0.125, "in 12% of prompts"), (0.0099, "in under 1% of prompts"), (0.999, "in 99% of prompts"), (1.0, "")],
)
def test_a_share_is_neither_rounded_to_none_nor_to_all(share, remark):
    ((text, said),) = token_labels(a_map((0,), [["to", share]]), "pos")
    assert (text, said) == ("to…" if remark else "to", remark)


def test_two_positions_are_joined_by_an_arrow():
    assert described([("to", ""), ("Mary…", "in 12% of prompts")]) == "“to” → “Mary…” (in 12% of prompts)"
    assert described([("", ""), ("to", "")]) == "“to”" and described([]) == ""
