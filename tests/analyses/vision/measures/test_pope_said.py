"""Answers as said: the first word must be what the logits say, and what is neither counts as wrong."""

import numpy as np
import pytest

import headlens
from headlens.analyses.vision.measures.estimates import paired_difference
from headlens.analyses.vision.measures.parsing import parse_as_pope
from headlens.analyses.vision.measures.pope import pope
from headlens.analyses.vision.measures.pope_said import Said, pope_said
from headlens.analyses.vision.scenes.scene_samples import scene_questions
from headlens.hooks.edits import Gate


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


def said(*answers, truth=(True, True, False, False, True)):
    return Said(tuple(map(str, answers)), answers, np.array(truth), ("a", "a", "b", "b", "c"))


@pytest.mark.parametrize("under", [(), [Gate("L2H3", 0.0)]], ids=["plain", "edited"])
def test_first_words_are_those_of_the_logits(model, under):
    samples = scene_questions(model, 4, seed=3)
    found, margins = (
        pope_said(model, samples, under=under, max_new_tokens=1, batch=5),
        pope(model, samples, under=under),
    )
    assert margins.valid.all() and found.said == tuple("yes" if yes else "no" for yes in margins.yes)
    assert found.accuracy == margins.accuracy and found.f1 == margins.f1 and found.unparsed == 0


def test_the_parser_is_asked_for_what_is_said(model):
    samples = scene_questions(model, 2, seed=3)
    garbled = pope_said(model, samples, max_new_tokens=1, parse=lambda text: None)
    assert garbled.accuracy == 0 and garbled.unparsed == 1 and np.isnan(garbled.precision)
    assert pope_said(model, samples, max_new_tokens=1, parse=parse_as_pope).provenance["parse"] == "parse_as_pope"
    with pytest.raises(ValueError, match="gave 'maybe'"):
        pope_said(model, samples, max_new_tokens=1, parse=lambda text: "maybe")


def test_measures_by_hand():
    found = said("yes", None, "no", "yes", None)
    # one of three that are true is found; one of two that are not is said to be there
    assert found.accuracy == 2 / 5 and found.recall == 1 / 3 and found.precision == 1 / 2
    assert found.f1 == pytest.approx(2 / 5) and found.yes_ratio == 2 / 5 and found.unparsed == 2 / 5
    assert found.false_positive_rate == 1 / 2
    assert "40.0% of answers are neither" in found.described() and "yes ratio 0.400" in found.described()
    assert found.to_frame()["said"].tolist() == ["yes", "", "no", "yes", ""]
    assert found.to_frame()["right"].tolist() == [True, False, True, False, False]


def test_neither_is_wrong_where_no_is_right():
    found = said(None, None, None, None, None)
    assert found.accuracy == 0 and found.recall == 0 and found.false_positive_rate == 0 and np.isnan(found.precision)


def test_two_results_are_compared():
    more = paired_difference(said("yes", "yes", "no", "yes", None), said("yes", None, "no", "yes", None), "recall")
    assert more.value == pytest.approx(1 / 3)
