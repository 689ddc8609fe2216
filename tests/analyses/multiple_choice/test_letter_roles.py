"""Classes of heads from evidence that is counted by hand."""

import numpy as np
import pytest
import torch

from headlens.analyses.multiple_choice.letter_attention import LetterAttention
from headlens.analyses.multiple_choice.letter_roles import CLASSES, UNITS, _classes, evidence_of, letter_roles
from headlens.analyses.multiple_choice.options import Options
from headlens.analyses.tasks import lettered
from headlens.hooks.sites import Head
from lettered_models import lettered_model, lettered_task

RIGHT = [0, 2, 1, 3, 1, 3]
ORDERS = ["ABCD", "BADC", "CDAB", "DCBA", "ABCD", "BADC"]
PLAIN = {"attention": 0.1, "focus": 0.5, "evenness": 0.9, "boost": 0.1, "last": 0.5, "gain": 0.02}


def planted(orders=ORDERS):
    """Heads that attend to the right letter, to A wherever it stands, to all alike, to little, and to what is last;
    that one writes half of what the stream says, the one before it writes for B, and the others nothing."""
    prompts = len(RIGHT)
    letters, said = np.full((prompts, 5, 4), 0.02), np.zeros((prompts, 5, 4))
    draw = np.random.default_rng(0)
    stream = 0.05 * draw.normal(size=(prompts, 5, 4))
    for prompt, (right, order) in enumerate(zip(RIGHT, orders, strict=True)):
        letters[prompt, 0, right] = 0.6
        letters[prompt, 1, order.find("A")] = 0.24
        letters[prompt, 2] = 0.1
        said[prompt, 3] = [0.3 if letter == "B" else -0.1 for letter in order]
    said[:, 4] = stream[:, 4] / 2
    last = np.zeros((prompts, 5))
    last[:, 4] = 0.8
    at = torch.arange(4).expand(prompts, -1)
    options = Options(np.array([[*order] for order in orders]), at, at, at + 10, torch.tensor(RIGHT))
    heads = tuple(Head(0, head) for head in range(5))
    return LetterAttention(heads, options, letters, letters / 2, last, said, stream, np.zeros((prompts, 4)))


def evidence(read):
    found, fixed, boosted = evidence_of(read, tuple(f"prompt {at}" for at in range(len(RIGHT))), 0.95)
    return {name: each.value for name, each in found.items()}, fixed, boosted


def test_evidence_by_hand():
    got, fixed, boosted = evidence(planted())
    np.testing.assert_allclose(got["letters"], [0.66, 0.3, 0.4, 0.08, 0.08])
    np.testing.assert_allclose(got["contents"], got["letters"] / 2)
    np.testing.assert_allclose(got["right_content"][[0, 2]], [0.3, 0.05])
    np.testing.assert_allclose(got["right_focus"][[0, 2]], [0.6 / 0.66, 0.25])
    np.testing.assert_allclose(got["fixed_focus"][[1, 2]], [0.8, 0.25])
    assert fixed[1] == "A" and boosted[3] == "B"
    one, rest = 0.6 / 0.66, 0.02 / 0.66
    by_hand = -(one * np.log(one) + 3 * rest * np.log(rest)) / np.log(4)
    np.testing.assert_allclose(got["evenness"], [by_hand, got["evenness"][1], 1, 1, 1])
    np.testing.assert_allclose(got["boost"][3], 0.3)
    np.testing.assert_allclose(got["gain"], [0, 0, 0, got["gain"][3], 0.5])
    rights = [order[right] for order, right in zip(ORDERS, RIGHT, strict=True)]
    np.testing.assert_allclose(got["direct"][3], np.mean([0.3 if letter == "B" else -0.1 for letter in rights]))


def test_each_head_has_its_class():
    got, _, _ = evidence(planted())
    assert _classes(got, PLAIN) == ["correct letter", "single letter", "uniform", "single letter", "amplification"]
    strict = {**PLAIN, "focus": 0.95, "evenness": 1.01, "boost": 0.31, "gain": 0.51}
    assert _classes(got, strict) == ["none"] * 5
    assert _classes(got, {**PLAIN, "attention": 0.35}) == [
        "correct letter",
        "none",
        "uniform",
        "single letter",
        "amplification",
    ]


def test_a_letter_that_is_boosted_only_where_it_is_right_is_no_fixed_one():
    read = planted()
    read.said[:, 3] = np.where(read.options.is_right, 0.9, -0.3)
    got, _, _ = evidence(read)
    np.testing.assert_allclose(got["boost"][3], -0.3)
    assert _classes(got, PLAIN)[3] == "none"


def test_letters_that_change_from_prompt_to_prompt_are_not_fixed():
    got, fixed, boosted = evidence(planted(["ABCD", "EFGH", "IJKL", "MNOP", "QRST", "UVWX"]))
    assert np.isnan(got["fixed_focus"]).all() and np.isnan(got["boost"]).all() and fixed == boosted == ("",) * 5
    assert _classes(got, PLAIN)[0] == "correct letter" and _classes(got, PLAIN)[3] == "none"


def test_the_table_shows_evidence_beside_the_class():
    found = letter_roles(lettered_model("llama"), lettered_task(), ["L2H3", "L0H1"])
    frame = found.to_frame()
    assert frame["head"].tolist() == ["L2H3", "L0H1"] and {*found.classes} <= {*CLASSES}
    for name in UNITS:
        assert (frame[f"{name}_low"] <= frame[name] + 1e-6).all() and (
            frame[name] <= frame[f"{name}_high"] + 1e-6
        ).all()
    assert {*found.of("none"), *(head for name in CLASSES[:-1] for head in found.of(name))} == {"L2H3", "L0H1"}
    assert found.provenance["thresholds"] == PLAIN


def test_what_makes_no_sense_is_refused():
    model, task = lettered_model("gpt2"), lettered_task()
    with pytest.raises(ValueError, match=r"focus=0.0 was given; expected a threshold above 0"):
        letter_roles(model, task, ["L0H0"], focus=0.0)
    with pytest.raises(ValueError, match=r"There is no class 'correct'; the classes are correct letter, single letter"):
        letter_roles(model, task, ["L0H0"]).of("correct")


@pytest.mark.real
def test_shares_of_the_real_model_are_shares(smollm2):
    found = letter_roles(smollm2, lettered(smollm2, n=8, shots=0), ["L20H0", "L23H3"]).evidence
    parts = found["letters"].value + found["contents"].value + found["last"].value
    assert (parts > 0).all() and (parts <= 1).all() and (found["right_content"].value <= found["contents"].value).all()
