"""Samples of scenes: the prompt, the picture and the truth belong together."""

import pytest
import torch

from headlens.analyses.vision.scenes.scene_pictures import as_pixels, draw_picture
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions, scene_questions
from headlens.analyses.vision.scenes.scenes import GRID, PARTED, draw_scenes
from headlens.analyses.vision.scenes.tiny_vlm import tiny_model, tiny_tokenizer
from headlens.hooks.model import wrap
from tiny_models import held


@pytest.fixture(scope="module")
def model():
    return wrap(tiny_model(), tiny_tokenizer(), "untrained")


@pytest.mark.parametrize("kind", ["random", "adversarial"])
def test_a_question_is_asked_of_its_own_picture(model, kind):
    samples = scene_questions(model, 7, seed=3, negatives=kind, world=PARTED)
    scenes = {scene.name: scene for scene in draw_scenes(7, 3, PARTED)}
    assert {*samples.clusters} == {*scenes} and len(samples) > 14
    every = zip(samples.inputs, samples.answers, samples.clusters, samples.facts, strict=True)
    for inputs, answer, cluster, facts in every:
        scene = scenes[cluster]
        assert facts["objects"] == scene.nouns and facts["missing"] == scene.missing
        assert facts["cell"] == (scene.cells[facts["noun"]] if answer == "yes" else -1)
        assert torch.equal(inputs["pixel_values"], as_pixels([draw_picture(scene)]))
        pieces = model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        assert pieces == ["<bos>", *["<image>"] * GRID**2, *f"is there a {facts['noun']} ?".split()]


def test_descriptions_are_asked_once_for_each_scene(model):
    samples = scene_descriptions(model, 5, seed=1)
    assert len(samples) == 5 and samples.clusters[4] == "seed 1 scene 4"
    assert model.tokenizer.decode(samples.inputs[2]["input_ids"][0, -1:]) == "describe"
    assert all(noun in samples.answers[2] for noun in samples.facts[2]["objects"])


def test_they_run_and_the_picture_matters(model):
    samples = scene_descriptions(model, 3)
    ((indices, inputs),) = samples.batches(8)
    logits = model(inputs)
    assert indices == [0, 1, 2] and logits.shape == (3, 38, len(model.tokenizer))
    assert torch.allclose(model(samples.inputs[1]), logits[1:2], atol=1e-5)
    swapped = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    assert not torch.allclose(model(swapped)[0], logits[0], atol=1e-3)


def test_equal_arguments_give_equal_samples(model):
    first, again = (scene_questions(model, 4, seed=2) for _ in range(2))
    assert first.answers == again.answers and first.facts == again.facts and first.details == again.details
    other = scene_questions(model, 4, seed=5)
    assert not torch.equal(first.inputs[0]["pixel_values"], other.inputs[0]["pixel_values"])


def test_models_that_scenes_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match=r"of size and patches \(16, 4\)"):
        scene_questions(held("llava"), 2)
    with pytest.raises(ValueError, match=r"of size and patches \(0, 0\)"):
        scene_descriptions(held("llama"), 2)
    with pytest.raises(ValueError, match="has no tokenizer"):
        scene_questions(wrap(model.hf), 2)
