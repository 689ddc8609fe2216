"""Position or letter: matches by hand, and the same prompts under other letters."""

import numpy as np
import pytest
import torch

from headlens.analyses.multiple_choice.letter_attention import LetterAttention
from headlens.analyses.multiple_choice.letter_mutations import letter_mutations, matches_of
from headlens.analyses.multiple_choice.options import Options
from headlens.analyses.tasks import lettered
from headlens.hooks.sites import Head
from lettered_models import lettered_model, lettered_task

BASE = ["ABC"] * 4
CHANGED = ["BCA", "ACB", "CAB", "XYZ"]


def attending(orders, items):
    """One head per column of `items` [prompt][head], which attends most to that item."""
    heads = tuple(Head(0, head) for head in range(len(items[0])))
    letters = np.array([[np.eye(len(orders[0]))[item] + 0.1 for item in row] for row in items])
    at = torch.arange(len(orders[0])).expand(len(orders), -1)
    options = Options(np.array([[*order] for order in orders]), at, at, at, torch.zeros(len(orders), dtype=torch.int64))
    rest = np.zeros(letters.shape)
    return LetterAttention(heads, options, letters, rest, rest[..., 0], rest, rest, rest[:, 0])


def test_matches_by_hand():
    base = attending(BASE, [[0, 0], [0, 1], [2, 1], [1, 2]])
    # the first head follows the letter where it can, and the second stays where it was
    mutated = attending(CHANGED, [[2, 0], [0, 1], [0, 1], [0, 2]])
    position, label = matches_of(base, mutated)
    # in the second prompt A keeps its place, so the first head cannot be told there
    np.testing.assert_array_equal(position, [[0, 1], [np.nan, 1], [0, 1], [0, 1]])
    np.testing.assert_array_equal(label, [[1, 0], [np.nan, 0], [1, 0], [0, 0]])


def made(names=("shuffled", "relettered")):
    return {name: lettered_task(n=12, mutation=name) for name in names}


def test_tables_hold_what_was_counted():
    model, base = lettered_model("llama"), lettered_task(n=12)
    found = letter_mutations(model, base, made(), ["L2H1", "L0H3"])
    heads = found.heads_frame()
    assert heads["mutation"].tolist() == ["shuffled"] * 2 + ["relettered"] * 2
    assert heads["head"].tolist() == ["L2H1", "L0H3"] * 2
    for name, rows in heads.groupby("mutation"):
        np.testing.assert_allclose(rows["position_match"], np.nanmean(found.position[name], 0))
        np.testing.assert_allclose(rows["label_match"], np.nanmean(found.label[name], 0))
        np.testing.assert_allclose(rows["label_minus_position"], rows["label_match"] - rows["position_match"])
        assert (rows["nth_item_falsified"] == (rows["label_match"] > rows["position_match"])).all()
        assert rows["prompts"].tolist() == (~np.isnan(found.position[name])).sum(0).tolist()
    # no letter is left to be followed
    relettered = heads[heads["mutation"] == "relettered"]
    assert (relettered["label_match"] == 0).all() and (relettered["prompts"] == 12).all()
    assert not relettered["nth_item_falsified"].any()
    tasks = found.to_frame().set_index("mutation")
    assert tasks.index.tolist() == ["base", "shuffled", "relettered"]
    assert tasks.loc["base", "rank_correlation"] == pytest.approx(1) and tasks.loc["base", "accuracy_change"] == 0
    assert (tasks["rank_correlation_low"] <= tasks["rank_correlation_high"]).all()
    for name, right in found.right.items():
        assert tasks.loc[name, "accuracy"] == pytest.approx(right.mean())


def test_the_same_task_matches_nowhere_apart():
    """Nothing is mutated, so every attended option keeps its letter."""
    base = lettered_task(n=12)
    found = letter_mutations(lettered_model("llama"), base, {"none": base}, ["L2H1"])
    assert np.isnan(found.position["none"]).all() and found.heads_frame()["prompts"].tolist() == [0]
    assert found.to_frame()["rank_correlation"].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("mutated", "message"),
    [
        ({}, r"The mutations \[\] were given; expected one or more"),
        ({"base": {}}, r"none of which is 'base'"),
        ({"other": {"seed": 9}}, "The task under 'other' does not have the base task's options at the same positions"),
        ({"fewer": {"n": 6}}, "The task under 'fewer' does not have"),
        ({"two": {"letters": "AB"}}, "The task under 'two' does not have"),
    ],
    ids=["none", "base", "seed", "fewer", "letters"],
)
def test_other_prompts_are_refused(mutated, message):
    tasks = {name: lettered_task(**{"n": 12, **made}) for name, made in mutated.items()}
    with pytest.raises(ValueError, match=message):
        letter_mutations(lettered_model("gpt2"), lettered_task(n=12), tasks, ["L0H0"])


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_under_shuffled_letters(smollm2):
    base, mutated = (lettered(smollm2, n=4, shots=0, mutation=each) for each in ("none", "shuffled"))
    found = letter_mutations(smollm2, base, {"shuffled": mutated}, ["L20H0"])
    assert {*found.right["base"]} <= {0.0, 1.0} and found.effects["shuffled"].values.shape == (30, 9)
