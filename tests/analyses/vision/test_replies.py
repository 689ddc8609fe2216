"""Greedy answers against picking the likeliest token by hand, step by step and without a cache."""

import pytest
import torch

import headlens
from headlens.analyses.vision.replies import replies, text_of
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions, scene_questions
from headlens.hooks.edits import Gate


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


def by_hand(model, inputs, steps, edits=()):
    ids, said = inputs["input_ids"], []
    end = model.tokenizer.tokenizer.eos_token_id
    for _ in range(steps):
        with model.edited(*edits), torch.no_grad():
            token = int(model({"input_ids": ids, "pixel_values": inputs["pixel_values"]})[0, -1].argmax())
        if token == end:
            return tuple(said), True
        said.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    return tuple(said), False


@pytest.mark.parametrize("under", [(), [Gate("L3H2", 2.0)]], ids=["plain", "edited"])
def test_each_step_is_the_likeliest_token(model, under):
    samples = scene_descriptions(model, 4, seed=9)
    found = replies(model, samples, 12, under=under, batch=3)
    expected = [by_hand(model, inputs, 12, under) for inputs in samples.inputs]
    assert [(one.tokens, one.ended) for one in found] == expected
    # some end within 12 tokens and some do not, so that both are seen
    assert {one.ended for one in found} == {True, False}
    assert text_of(model, found[0]) == model.tokenizer.tokenizer.decode(found[0].tokens)
    assert not any("<" in text_of(model, one) for one in found)


def test_replies_come_in_the_order_of_samples(model):
    questions, descriptions = scene_questions(model, 1, seed=9), scene_descriptions(model, 2, seed=9)
    # two lengths in turns
    mixed = Samples("mixed", (descriptions.inputs[0], questions.inputs[0], descriptions.inputs[1], questions.inputs[1]))
    seen = []
    found = replies(model, mixed, 5, under=lambda indices: seen.append(indices) or [])
    assert seen == [[0, 2], [1, 3]]
    assert [one.tokens for one in found] == [by_hand(model, inputs, 5)[0] for inputs in mixed.inputs]


def test_numbers_below_one_are_refused(model):
    samples = scene_descriptions(model, 1)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        replies(model, samples, 0)
    with pytest.raises(ValueError, match="0 samples"):
        replies(model, samples.subset([]), 5)
