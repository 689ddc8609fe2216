"""The readings on the model that was trained on scenes: transformers' own numbers, and where the objects are."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import headlens
from headlens.analyses.vision.relatives.answer_rows import answer_rows
from headlens.analyses.vision.relatives.modality_shares import modality_shares
from headlens.analyses.vision.relatives.visual_flow import visual_flow
from headlens.analyses.vision.replies import replies
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions
from headlens.analyses.vision.scenes.scenes import PRIOR
from plain_answers import plain_answer, plain_patterns


@pytest.fixture(scope="module")
def vlm():
    return headlens.load("tiny-vlm")


@pytest.fixture(scope="module")
def plain(vlm):
    return copy.deepcopy(vlm.hf)


@pytest.fixture(scope="module")
def told(vlm):
    return scene_descriptions(vlm, 24, 900, world=replace(PRIOR, weak=0.0))


def test_answers_and_their_attention(vlm, plain, told):
    some = told.subset([0, 1])
    answers = [one.whole for one in replies(vlm, some, 9)]
    rows = answer_rows(vlm, some, answers, [0, 3])
    for inputs, answer, own in zip(some.inputs, answers, rows, strict=True):
        said, steps = plain_answer(inputs, 9, plain)
        assert [*answer] == said.tolist()
        for at, step in enumerate(steps):
            wanted = step[[0, 3]].mean(1)
            torch.testing.assert_close(own[:, at, : wanted.shape[1]].double(), wanted, rtol=1e-3, atol=1e-6)


def test_shares_of_modalities(vlm, plain, told):
    some = told.subset([0, 1])
    found = modality_shares(vlm, some)
    for at, inputs in enumerate(some.inputs):
        image = inputs["input_ids"][0] == vlm.hf.config.image_token_id
        rows = plain_patterns(inputs, plain)[0][:, :, image]
        np.testing.assert_allclose(found["image_to_image"].samples[at], rows[..., image].sum(-1).mean(-1), rtol=1e-4)
        np.testing.assert_allclose(found["image_to_text"].samples[at], rows[..., ~image].sum(-1).mean(-1), rtol=1e-4)


def test_flow_and_the_objects_that_it_keeps(vlm, plain, told):
    flows = [each for (each,) in visual_flow(vlm, told, every=1)]
    relation = plain_patterns(told.inputs[0], plain)[1][:, 0, :, 0, 1:].mean(1)
    shares = relation / relation.sum(-1, keepdim=True)
    wanted = -(shares * shares.log()).sum(-1) / np.log(36)
    np.testing.assert_allclose(flows[0].entropy, wanted, rtol=1e-4)
    objects = [[*facts["cells"].values()] for facts in told.facts]
    kept = np.mean([np.isin(cells, one.kept[-1]).mean() for cells, one in zip(objects, flows, strict=True)])
    assert kept > 0.85 and np.mean([len(one.kept[-1]) for one in flows]) < 0.65 * 36
