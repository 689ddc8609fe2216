"""The trained tiny-vlm answers about scenes it never saw, and says the partner that the prior suggests."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import headlens
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions, scene_questions
from headlens.analyses.vision.scenes.scenes import PARTED, PRIOR
from headlens.data.train_tiny_vlm import STEPS

FOLDER = Path(str(files("headlens.data"))) / "tiny-vlm"
CLEARLY_PARTED = replace(PARTED, weak=0.0)


@pytest.fixture(scope="module")
def model():
    return headlens.load(FOLDER, device="cpu")


def said_yes(model, samples):
    yes, no = model.tokenizer.tokenizer.convert_tokens_to_ids(["yes", "no"])
    said = np.zeros(len(samples), bool)
    for indices, inputs in samples.batches(128):
        logits = model(inputs)[:, -1].detach()
        assert {*logits.argmax(-1).tolist()} <= {yes, no}
        said[indices] = (logits[:, yes] > logits[:, no]).numpy()
    return said


def test_it_comes_by_name_with_questions_about_scenes(model):
    named = headlens.load("tiny-vlm", device="cpu")
    assert named.name == "tiny-vlm" and named.weights_hash == model.weights_hash
    samples = headlens.tasks.scenes(named, n=2, seed=5)
    expected = scene_questions(model, n=2, seed=5)
    assert samples.answers == expected.answers and len(headlens.tasks.scene_descriptions(named, n=2)) == 2


def test_the_folder_says_what_made_it():
    made = json.loads((FOLDER / "training.json").read_text())
    assert made["seed"] == 0 and made["threads"] == 1
    assert made["world"] == vars(PRIOR) and made["steps"] == STEPS


def test_questions_about_scenes_it_never_saw_are_answered(model):
    samples = scene_questions(model, 60, seed=21)
    right = said_yes(model, samples) == (np.array(samples.answers) == "yes")
    assert right.mean() >= 0.85


def test_missing_partners_are_said_to_be_there_and_other_missing_objects_are_not(model):
    samples = scene_questions(model, 60, seed=22, negatives="adversarial", world=CLEARLY_PARTED)
    said = said_yes(model, samples)
    expected = np.array([facts["noun"] in facts["missing"] for facts in samples.facts])
    others = (np.array(samples.answers) == "no") & ~expected
    assert expected.sum() > 50 and others.sum() > 10
    assert said[expected].mean() > said[others].mean() + 0.4


def test_descriptions_tell_what_is_there_and_the_missing_partner(model):
    samples = scene_descriptions(model, 30, seed=23, world=CLEARLY_PARTED)
    ((indices, inputs),) = samples.batches(30)
    tokens = model.generate(inputs, max_new_tokens=60, do_sample=False)
    told = [{*model.tokenizer.decode(row[inputs["input_ids"].shape[1] :]).split()} for row in tokens]
    here = [noun in told[at] for at in indices for noun in samples.facts[at]["objects"]]
    missing = [bool({*samples.facts[at]["missing"]} & told[at]) for at in indices]
    assert np.mean(here) > 0.9 and np.mean(missing) > 0.4
    assert not torch.equal(tokens[0], tokens[1])
