"""Halves: every item in one of them, answers and templates balanced, and as random as they can be."""

from collections import Counter

import numpy as np
import pytest

from headlens.analyses.splits import halves


def labels(items, seed=0):
    draw = np.random.default_rng(seed)
    answers = draw.choice(4, size=items, p=[0.5, 0.3, 0.15, 0.05]).tolist()
    return draw.choice(list("abcdefg"), size=items).tolist(), answers


@pytest.mark.parametrize("items", [4, 5, 37, 128])
@pytest.mark.parametrize("seed", range(10))
def test_answers_and_their_templates_are_balanced(items, seed):
    templates, answers = labels(items, seed)
    first, second = halves(items, templates, answers, seed)
    assert sorted([*first, *second]) == list(range(items)) and abs(len(first) - len(second)) <= 1
    assert np.array_equal(first, np.sort(first)) and np.array_equal(second, np.sort(second))
    for kind in (answers, list(zip(answers, templates, strict=True))):
        one, other = (Counter(kind[item] for item in half) for half in (first, second))
        assert all(abs(one[label] - other[label]) <= 1 for label in kind)


@pytest.mark.parametrize("items", [6, 7])
@pytest.mark.parametrize("templates", ["", "sssssss", "abababa", "abcdefg"])
def test_every_item_is_as_likely_in_either_half(items, templates):
    in_first = np.zeros(items)
    for seed in range(2000):
        in_first[halves(items, [*templates[:items]], [0, 0, 0, 1, 1, 2, 2][:items], seed)[0]] += 1
    np.testing.assert_allclose(in_first / 2000, 0.5, atol=5 * 0.5 / 2000**0.5)


@pytest.mark.parametrize("templates", [[], list("abcdef")])
def test_every_balanced_split_occurs(templates):
    # 3 of 6 items of one answer; a template that one item has is no reason to keep two items apart
    found = {tuple(halves(6, templates, [0] * 6, seed)[0]) for seed in range(500)}
    assert len(found) == 20


def test_the_seed_decides():
    templates, answers = labels(64)
    once, again = halves(64, templates, answers, 3), halves(64, tuple(templates), np.array(answers), 3)
    assert all(np.array_equal(*pair) for pair in zip(once, again, strict=True))
    assert not np.array_equal(once[0], halves(64, templates, answers, 4)[0])


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: halves(3, ["a"] * 3, [0, 1, 0]), "3 prompts were given"),
        (lambda: halves(5, ["a"] * 5, [0, 1, 0]), "3 answers, 5 templates and 0 items were given for 5"),
        (lambda: halves(5, ["a"] * 4, [0] * 5), "5 answers, 4 templates and 0 items were given for 5"),
        (lambda: halves(5, [], [0] * 5, items=[1, 2]), "0 templates and 2 items were given for 5"),
        (lambda: halves(5, [], [0] * 5, items=["same"] * 5), "All 5 prompts are one item"),
    ],
)
def test_what_cannot_be_split_is_refused(ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask()


@pytest.mark.parametrize("seed", range(10))
def test_prompts_of_one_item_stay_together(seed):
    # twenty questions in three templates each, with two answers
    items = [question for question in range(20) for _ in range(3)]
    answers = ["yes" if question % 2 else "no" for question in items]
    one, other = halves(60, ["t1", "t2", "t3"] * 20, answers, seed, items)
    asked, asked_then = ({items[prompt] for prompt in half} for half in (one, other))
    assert not asked & asked_then and len(one) + len(other) == 60
    for answer in ("yes", "no"):
        counts = [sum(answers[prompt] == answer for prompt in half) for half in (one, other)]
        assert abs(counts[0] - counts[1]) <= 3
