"""Questions and descriptions of scenes: what is asked, what is right, and which noun is asked for in vain."""

import numpy as np
import pytest

from headlens.analyses.vision.scenes.scene_questions import count, describe, questions, words
from headlens.analyses.vision.scenes.scenes import ANCHORS, NOUNS, PARTED, PRIOR, Placed, Scene, draw_scenes

TRAINED_ON = draw_scenes(1500, 17, PRIOR)
COUNTS = count(TRAINED_ON)
KINDS = ["random", "popular", "adversarial"]


def scene_of(*nouns):
    return Scene(tuple(Placed(noun, at, 1.0) for at, noun in enumerate(nouns)), (0, 0))


def test_counts_are_those_of_the_scenes_one_by_one():
    for noun, other in [("table", "chair"), ("star", "cup"), ("lamp", "lamp")]:
        both = sum(noun in scene.nouns and other in scene.nouns for scene in TRAINED_ON) if noun != other else 0
        assert COUNTS.together[NOUNS.index(noun), NOUNS.index(other)] == both
        assert COUNTS.alone[NOUNS.index(noun)] == sum(noun in scene.nouns for scene in TRAINED_ON)
    assert np.array_equal(COUNTS.together, COUNTS.together.T)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_true_and_half_are_yes_and_no_noun_comes_twice(kind):
    for scene in draw_scenes(100, 3, PARTED):
        asked = questions(scene, kind, COUNTS)
        assert len(asked) == 2 * min(3, len(scene.nouns))
        assert [one.answer for one in asked] == ["yes", "no"] * (len(asked) // 2)
        assert all((one.noun in scene.nouns) == (one.answer == "yes") for one in asked)
        assert len({one.noun for one in asked}) == len(asked)
        assert [one.noun for one in asked[::2]] == [one.paired for one in asked[1::2]] == [*scene.nouns[:3]]


def test_adversarial_negatives_of_parted_anchors_are_their_partners():
    for scene in draw_scenes(100, 3, PARTED):
        vain = {one.paired: one.noun for one in questions(scene, "adversarial", COUNTS) if one.answer == "no"}
        for anchor, partner in ANCHORS.items():
            if anchor in vain and partner in scene.missing:
                assert vain[anchor] == partner


def test_popular_negatives_are_the_most_frequent_that_are_absent():
    scene = scene_of("cup", "star")
    frequent = sorted(NOUNS, key=lambda noun: -sum(noun in one.nouns for one in TRAINED_ON))
    absent = [noun for noun in frequent if noun not in scene.nouns]
    assert [one.noun for one in questions(scene, "popular", COUNTS)[1::2]] == absent[:2]


def test_random_negatives_reach_every_noun_and_are_the_same_each_time():
    scenes = draw_scenes(400, 3)
    asked = [questions(scene, "random", COUNTS) for scene in scenes]
    assert asked == [questions(scene, "random", COUNTS) for scene in scenes]
    vain = [one.noun for some in asked for one in some if one.answer == "no"]
    assert {*vain} == {*NOUNS}


def test_partners_are_told_with_their_anchors_and_others_alone():
    assert describe(scene_of("table", "chair", "star")) == "there is a table with a chair . a star ."
    assert describe(scene_of("cup", "boat", "chair", "flag")) == "there is a cup . a boat with a flag . a chair ."


@pytest.mark.parametrize("world", [PRIOR, PARTED], ids=["prior", "parted"])
def test_a_description_names_every_object_once_in_known_words(world):
    for scene in draw_scenes(100, 8, world):
        told = describe(scene).split()
        assert sorted(word for word in told if word in NOUNS) == sorted(scene.nouns)
        assert {*told} <= {*words()}


def test_an_unknown_kind_of_negatives_is_refused():
    with pytest.raises(ValueError, match="random, popular, adversarial"):
        questions(scene_of("cup"), "rare", COUNTS)
