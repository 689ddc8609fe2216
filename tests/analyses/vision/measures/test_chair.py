"""CHAIR by hand, and of the bundled model against counting its words."""

from dataclasses import replace

import numpy as np
import pytest

import headlens
from headlens.analyses.vision.measures.chair import chair, chair_of
from headlens.analyses.vision.measures.estimates import paired_difference
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions
from headlens.analyses.vision.scenes.scenes import NOUNS, PARTED
from headlens.hooks.edits import Gate

CAPTIONS = ("A dog and a dog near a cat.", "Two puppies; no bench.", "Nothing here.", "a cat , a bench and a bench")
OBJECTS = (["dog", "bench"], ["puppy"], ["cat"], ["cat", "dog"])
CLASSES = {"dog": "dog", "puppy": "dog", "puppies": "dog", "cat": "cat", "bench": "bench"}
MISSING = ([], ["cat"], [], ["bench"])


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture
def found():
    return chair_of(CAPTIONS, OBJECTS, CLASSES, missing=MISSING)


def test_captions_by_hand(found):
    assert [one.mentions for one in found.captions] == [
        ("dog", "dog", "cat"),
        ("dog", "bench"),
        (),
        ("cat", "bench", "bench"),
    ]
    assert [one.hallucinated for one in found.captions] == [("cat",), ("bench",), (), ("bench", "bench")]
    assert [one.missed for one in found.captions] == [("bench",), (), ("cat",), ("dog",)]
    assert [one.words for one in found.captions] == [8, 4, 2, 7]


def test_measures_by_hand(found):
    # mentions count as often as they come, objects once in a picture
    assert found.chair_i == 4 / 8 and found.chair_s == 3 / 4
    assert found.recall == 3 / 6 and found.object_f1 == pytest.approx(2 * 3 / (6 + 6))
    assert found.words == 21 / 4 and found.truncated == 0 and found.partner_rate == 1 / 2
    told = found.described()
    assert all(
        word in told for word in ("CHAIR_I 0.500", "CHAIR_S 0.750", "recall 0.500", "5.2 words", "0.500 of missing")
    )


def test_what_is_not_defined_is_missing():
    silent = chair_of(["hm"], [["cat"]], CLASSES)
    assert np.isnan(silent.chair_i) and np.isnan(silent.partner_rate) and silent.chair_s == 0 and silent.recall == 0
    assert "missing partners" not in silent.described()


def test_intervals_draw_clusters_and_differences_are_paired(found):
    other = chair_of(("a dog", *CAPTIONS[1:]), OBJECTS, CLASSES, missing=MISSING)
    more = paired_difference(found, other, "chair_s")
    assert more.value == 1 / 4 and more.low == 0 and found.ci("chair_i") == found.ci("chair_i")
    one = chair_of(CAPTIONS, OBJECTS, CLASSES, clusters=("a", "a", "b", "b"))
    # of two clusters: twice the first, both, or twice the second
    assert (one.ci("words").low, one.ci("words").high) == (4.5, 6.0)
    with pytest.raises(ValueError, match="not of the same samples"):
        paired_difference(found, chair_of(CAPTIONS, OBJECTS[::-1], CLASSES), "chair_s")


def test_a_model_is_scored_by_what_it_says(model):
    samples = scene_descriptions(model, 12, seed=5, world=PARTED)
    found = chair(model, samples, classes=NOUNS, batch=5)
    wrong = mentions = named = partners = 0
    for one, facts in zip(found.captions, samples.facts, strict=True):
        said = [word for word in one.text.split() if word in NOUNS]
        assert list(one.mentions) == said and one.text == model.tokenizer.tokenizer.decode(one.tokens)
        wrong += sum(word not in facts["objects"] for word in said)
        mentions += len(said)
        named += len({*said} & {*facts["objects"]})
        partners += len({*said} & {*facts["missing"]})
    assert found.chair_i == wrong / mentions > 0 and found.truncated == 0
    assert found.recall == named / sum(len(facts["objects"]) for facts in samples.facts)
    assert found.partner_rate == partners / sum(len(facts["missing"]) for facts in samples.facts) > 0.5
    again = chair_of([one.text for one in found.captions], [one.objects for one in found.captions], NOUNS)
    assert again.chair_i == found.chair_i
    assert found.to_frame()["hallucinated"].str.len().gt(0).mean() == found.chair_s
    quiet = chair(model, samples, classes=NOUNS, under=[Gate("all", 0.0)])
    assert quiet.recall < found.recall and quiet.provenance["classes"].keys() == {*NOUNS}


def test_short_room_is_told(model):
    samples = scene_descriptions(model, 3, seed=5)
    cut = chair(model, samples, max_new_tokens=4)
    assert cut.truncated == 1 and "100.0% of them cut off" in cut.described() and cut.words == 4


def test_classes_come_from_the_samples_where_none_are_given(model):
    samples = scene_descriptions(model, 2, seed=5)
    named = Samples("own", samples.inputs, facts=({"objects": ["star"]},) * 2, details={"classes": {"star": "star"}})
    assert chair(model, named, max_new_tokens=2).provenance["classes"] == {"star": "star"}
    known = {name for facts in samples.facts for name in (*facts["objects"], *facts["missing"])}
    assert chair(model, replace(samples, details={}), max_new_tokens=2).provenance["classes"].keys() == known
    # of scenes they are all nouns, also those that none of these has
    assert chair(model, samples, max_new_tokens=2).provenance["classes"].keys() == {*NOUNS}


def test_pictures_without_known_objects_are_refused(model):
    samples = scene_descriptions(model, 2)
    with pytest.raises(ValueError, match="Sample 0 has no list of objects"):
        chair(model, Samples("own", samples.inputs))
    with pytest.raises(ValueError, match="object 'tiger' is none"):
        chair_of(["a cat"], [["tiger"]], CLASSES)
    with pytest.raises(ValueError, match="of lengths"):
        chair_of(["a cat"], [], CLASSES)
