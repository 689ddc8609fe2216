"""Contrast maps against transformers' own attention, and what they find on scenes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import headlens
from headlens.analyses.vision.relatives.contrast_crop import contrast_crop
from headlens.analyses.vision.relatives.contrast_maps import contrast, contrast_maps, fused
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions, scene_questions
from headlens.analyses.vision.scenes.scenes import PRIOR
from headlens.hooks.edits import Call
from plain_answers import plain_answer
from tiny_models import held
from tiny_samples import sample

ASKED = Samples("asked", (sample(5, start=(2, 8)), sample(9, pictures=2, seed=1), sample(5, seed=2, start=(2, 9))))
GENERAL = Samples("general", (sample(3), sample(4, pictures=2, seed=1), sample(3, seed=2)))


def by_hand(asked, general, layers, count, floor, lam):
    """The scores of one sample, with loops over layers, steps and patches."""
    columns = [(each["input_ids"][0] == 99).nonzero()[:, 0].tolist() for each in (asked, general)]
    rows = [plain_answer(each, count)[1] for each in (asked, general)]
    scores = [0.0] * len(columns[0])
    for step, (one, other) in enumerate(zip(*rows, strict=False), 1):
        for layer in layers:
            q, g = (row[layer].mean(0).tolist() for row in (one, other))
            mean = sum(g[at] for at in columns[1]) / len(columns[1])
            for patch, (at, there) in enumerate(zip(*columns, strict=True)):
                scores[patch] += step * q[at] / (max(g[there], floor * mean) + lam)
    return scores


@pytest.mark.parametrize(
    ("words", "layers"),
    [({}, (1, 2)), ({"layers": (0, 2), "floor": 0.9, "lam": 0.02}, (0, 2)), ({"floor": 0.0, "steps": 1}, (1, 2))],
    ids=["paper", "floor", "first step"],
)
def test_scores_by_hand(words, layers):
    wanted = {"steps": 4, "floor": 0.1, "lam": 0.0, **words}
    found = contrast_maps(held("llava"), ASKED, GENERAL, batch=2, **{"steps": 4, **words})
    for asked, general, one in zip(ASKED.inputs, GENERAL.inputs, found, strict=True):
        own = by_hand(asked, general, layers, wanted["steps"], wanted["floor"], wanted["lam"])
        np.testing.assert_allclose(one.scores, own, rtol=1e-3)
        assert one.layers == layers and one.question.shape == one.general.shape == (2, wanted["steps"], len(own))
        assert (asked["input_ids"][0, one.columns] == 99).all()


def test_a_map_has_rows_and_columns():
    found = contrast_maps(held("llava"), ASKED, GENERAL, steps=1)
    for one, pictures in zip(found, (1, 2, 1), strict=True):
        assert len(one.cells) == pictures
        whole = np.concatenate([one.of(picture).ravel() for picture in range(pictures)])
        np.testing.assert_array_equal(whole, one.scores)
        assert one.of(0).shape == (4, 4)
    closer = contrast_crop(np.full((16, 16, 3), 7, np.uint8), found[0].of(), share=1 / 16)
    assert closer.kept[4 * (found[0].scores.argmax() // 4), 4 * (found[0].scores.argmax() % 4)]


def test_as_many_steps_as_the_shorter_answer(monkeypatch):
    model = held("llava")
    ends = plain_answer(GENERAL.inputs[0], 4)[0][1]
    monkeypatch.setattr(model.hf.generation_config, "eos_token_id", int(ends))
    found = contrast_maps(model, ASKED.subset([0]), GENERAL.subset([0]), steps=4)
    assert found[0].question.shape[1] == 2


def test_a_factor_of_both_cancels_as_lambda_goes():
    draw = torch.Generator().manual_seed(0)
    f, g = (torch.rand(3, 2, 17, generator=draw, dtype=torch.float64) + 0.2 for _ in range(2))
    errors = [float((contrast(f * g, f, 0.0, lam) - g).abs().max()) for lam in (1e-1, 1e-3, 1e-5, 0.0)]
    assert errors == sorted(errors, reverse=True) and errors[-2] < 1e-4 and errors[-1] < 1e-15


def test_a_patch_that_the_instruction_ignores_does_not_outweigh_all():
    question, general = torch.tensor([0.1, 1e-4, 0.1]), torch.tensor([0.1, 1e-9, 0.1])
    assert contrast(question, general, 0.0)[1] > 1e4 and contrast(question, general, 0.1)[1] < 0.1
    assert contrast(torch.zeros(2), torch.zeros(2)).tolist() == [0, 0]


def test_later_steps_weigh_more():
    maps = torch.zeros(2, 3, 4)
    maps[:, 0, 0] = maps[:, 1, 1] = maps[:, 2, 2] = 1
    assert fused(maps).tolist() == [2, 4, 6, 0]


def test_what_every_prompt_looks_at_goes_and_what_the_question_looks_at_stays():
    sinks, cell = [3, 9], 12

    def pull(scores, hook):
        scores[..., sinks] += 5
        # only questions are as long as this
        if scores.shape[3] > 30:
            scores[..., cell] += 2

    model, asked, general = held("llava"), Samples("asked", (sample(20),)), Samples("general", (sample(4),))
    with model.edited(*(Call(f"blocks.{layer}.attn.hook_attn_scores", pull) for layer in (1, 2))):
        (found,) = contrast_maps(model, asked, general, steps=3)
    assert {*found.question.mean((0, 1)).argsort()[-2:].tolist()} == {*sinks}
    assert found.scores.argmax() == cell


def test_maps_find_objects_of_scenes_better_than_chance_does():
    """No more than that: the attention under the question alone does as well here, and the object that is asked about
    scores no higher than the scene's others."""
    vlm, world = headlens.load("tiny-vlm"), replace(PRIOR, weak=0.0)
    questions, told = (draw(vlm, 24, 500, world=world) for draw in (scene_questions, scene_descriptions))
    questions = questions.subset([at for at, answer in enumerate(questions.answers) if answer == "yes"])
    general = told.subset([told.clusters.index(name) for name in questions.clusters])
    cells = [facts["cell"] for facts in questions.facts]
    best = [one.scores.argsort()[::-1][:4] for one in contrast_maps(vlm, questions, general, steps=2, batch=32)]
    hits = np.mean([cell in four for cell, four in zip(cells, best, strict=True)])
    # four of 36 patches have the cell in one case of nine
    assert len(cells) > 50 and hits > 0.4


@pytest.mark.parametrize(
    ("samples", "general", "words", "says"),
    [
        (ASKED, GENERAL.subset([0]), {}, "1 general prompts were given for 3"),
        (ASKED.subset([]), GENERAL.subset([]), {}, "0 samples"),
        (ASKED, GENERAL, {"floor": -1.0}, "floor=-1.0"),
        (ASKED.subset([0]), GENERAL.subset([1]), {}, "16 image tokens and its general prompt 32"),
        (Samples("text", ({"input_ids": torch.arange(4, 9)[None]},)),) * 2 + ({}, "0 image tokens"),
        (ASKED, GENERAL, {"layers": [3]}, "Layer 3"),
    ],
    ids=["count", "none", "floor", "pictures", "text", "layer"],
)
def test_what_does_not_fit_is_refused(samples, general, words, says):
    with pytest.raises(ValueError, match=says):
        contrast_maps(held("llava"), samples, general, **words)
