"""Maps of every shape in lines of text."""

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.ranking import cells_of, counted, described, ranking

TOKENS = [["When", 1.0], ["Mary", 0.25], ["to", 1.0]]


def map_of(dims, values, samples=True, **fields):
    """A map of these values; with samples, of two prompts that differ by 0.2 in every cell."""
    values = np.array(values, np.float32)
    about = {"name": "patching effect", "units": "fraction in logits", "sign": "Positive: carries.", **fields}
    return HeadMap(
        values=values, dims=dims, samples=np.stack([values - 0.1, values + 0.1]) if samples else None, **about
    )


def test_the_strongest_come_first_with_interval_and_bar():
    shown = described(map_of(("layer", "head"), [[0.5, -1.0], [np.nan, 0.25]]), 3)
    assert shown.splitlines() == [
        "patching effect (fraction in logits), with 95% intervals:",
        "  L0H1  -1.000  [-1.100, -0.900]  ------------------------",
        "  L0H0  +0.500  [+0.400, +0.600]  ++++++++++++",
        "  L1H1  +0.250  [+0.150, +0.350]  ++++++",
        "Positive: carries.",
    ]


def test_no_interval_is_promised_where_there_is_none():
    shown = described(map_of(("layer",), [0.5, -0.0001], samples=False), 3)
    assert shown.splitlines() == [
        "patching effect (fraction in logits):",
        "  L0  +0.500  ++++++++++++++++++++++++",
        "  L1  +0.000",
        "Positive: carries.",
    ]


def test_positions_have_their_tokens():
    values = [[0.5, -1.0, 0.25]]
    shown = described(map_of(("layer", "pos"), values, samples=False, provenance={"tokens": TOKENS}), 2)
    assert shown.splitlines()[1:3] == [
        "  L0@1 “Mary…”  -1.000  ------------------------",
        "  L0@0 “When”   +0.500  ++++++++++++",
    ]
    assert shown.endswith("Positive: carries.\nA token with … is the most common one at its position.")


def test_a_remark_on_tokens_needs_one_that_differs():
    shown = described(map_of(("layer", "pos"), [[0.5, 0.1, -1.0]], provenance={"tokens": TOKENS}), 2)
    assert "L0@2 “to”" in shown and "…" not in shown


def test_query_and_key_have_a_token_each():
    values = np.zeros((1, 1, 3, 3))
    values[0, 0, 2, 1] = 1
    fields = {"coords": {"layer": [5], "head": [2]}, "provenance": {"tokens": TOKENS}}
    assert "L5H2 q2 k1 “to” → “Mary…”  +1.000" in ranking(
        map_of(("layer", "head", "query", "key"), values, **fields), 1
    )


def test_named_positions_and_sets_of_heads_are_their_own_labels():
    fields = {"coords": {"heads": ["L0H1+L2H3"], "pos": ["S2", "S1..S2"]}, "provenance": {"tokens": TOKENS}}
    shown = ranking(map_of(("heads", "pos"), [[0.5, 1.0]], **fields), 2)
    assert [line.split("  ")[1] for line in shown.splitlines()] == ["L0H1+L2H3@S1..S2", "L0H1+L2H3@S2"]


def test_each_metric_has_a_ranking_with_its_own_name():
    headmap = map_of(
        ("layer", "metric"),
        [[0.5, -2.0], [0.25, 1.0]],
        units="fraction of the difference in each metric",
        coords={"metric": ["prob", "kl"]},
        provenance={"metric": ["prob", "kl"]},
        samples=False,
    )
    assert described(headmap, 1).splitlines() == [
        "patching effect (fraction of the difference in prob):",
        "  L0  +0.500  ++++++++++++++++++++++++",
        "patching effect (fraction of the difference in kl):",
        "  L0  -2.000  ------------------------",
        "Positive: carries.",
    ]


def test_a_map_with_nothing_in_it_says_so():
    assert ranking(map_of(("layer",), [np.nan]), 3) == "(every value is missing)"


@pytest.mark.parametrize(
    ("dims", "shape", "provenance", "words"),
    [
        (("layer", "head"), (3, 4), {}, "12 heads"),
        (("layer", "head"), (1, 1), {"site": "z"}, "1 head"),
        (("layer", "head", "metric"), (3, 4, 2), {"site": "result"}, "12 heads of result"),
        (("layer", "head", "pos"), (3, 2, 9), {"site": "rot_k"}, "6 key/value heads x 9 positions of rot_k"),
        (("layer", "pos"), (30, 14), {"site": "resid_pre"}, "30 layers x 14 positions of resid_pre"),
        (("layer",), (3,), {"site": "z", "positions": ["S2", 9]}, "3 layers at S2, 9"),
        (("heads", "pos"), (1, 1), {"site": "z"}, "1 set of heads x 1 position"),
        (("heads",), (2,), {"site": "v"}, "2 sets of heads of v"),
        (
            ("layer", "head", "query", "key"),
            (1, 2, 3, 3),
            {"site": "pattern"},
            "2 heads x 3 query positions x 3 key positions of pattern",
        ),
    ],
)
def test_what_was_measured_in_words(dims, shape, provenance, words):
    assert cells_of(map_of(dims, np.zeros(shape), provenance=provenance)) == words


def test_one_and_several():
    assert (counted(1, "pair"), counted(0, "pair"), counted(2, "key", "keys")) == ("1 pair", "0 pairs", "2 keys")


def test_what_a_map_says_in_words_comes_first():
    told = map_of(("layer",), [0.5], provenance={"in_words": "Two heads gain."})
    assert described(told, 3).splitlines()[:2] == [
        "Two heads gain.",
        "patching effect (fraction in logits), with 95% intervals:",
    ]
