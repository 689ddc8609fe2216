"""The same on trained weights: questions about scenes, against attention computed by hand in all layers."""

import pytest
import torch

import headlens
from headlens.analyses.vision.relatives.attention_masks import mutual_attention, no_attention_among_patches
from headlens.analyses.vision.relatives.cross_modal_inhibition import inhibit_cross_modal
from headlens.analyses.vision.relatives.guidance import guidance
from headlens.analyses.vision.relatives.imbalanced import imbalanced
from headlens.analyses.vision.relatives.pai import pai, pai_centred
from plain_image_scores import raised_by_hand, rewritten_by_hand
from plain_inhibition import inhibited_by_hand
from plain_patch_sets import looked, sets_by_hand

LAYERS = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture(scope="module")
def inputs(model):
    (_, first), *_ = headlens.tasks.scenes(model, n=2, seed=3).batches(4)
    return first


@pytest.fixture(scope="module")
def image(model, inputs):
    return inputs["input_ids"] == model.hf.config.image_token_index


def agrees(model, inputs, edits, rewrite, rows=slice(None)):
    """Logits of the edited run are those of attention rewritten by hand, and not those of a plain run."""
    with rewritten_by_hand(model.hf, rewrite, LAYERS):
        expected = model.hf(**inputs).logits
    with torch.no_grad():
        plain = model(inputs)
        with model.edited(*edits):
            found = model(inputs)
    assert (expected - plain)[:, -1].abs().amax(-1).min() > 0.01
    torch.testing.assert_close(found[:, rows], expected[:, rows], atol=1e-4, rtol=0)


@pytest.mark.parametrize("edit", [pai, pai_centred])
def test_pai(model, inputs, edit):
    by_hand = raised_by_hand(inputs["input_ids"], model.hf.config.image_token_index, 0.5, centred=edit is pai_centred)
    agrees(model, inputs, [edit(model, 0.5, layers=LAYERS)], by_hand)


def test_imbalanced(model, inputs, image):
    before = model.hf.model.vision_tower.config._attn_implementation
    seen = looked(model.hf, inputs["pixel_values"])
    model.hf.model.vision_tower.set_attn_implementation(before)
    strength = torch.zeros(image.shape, dtype=torch.float64)
    for prompt, (first, last) in enumerate(zip(*seen, strict=True)):
        local, summary = sets_by_hand(first, last)
        own = [0.7 if patch in local else 0.3 if patch in summary else 0.0 for patch in range(36)]
        strength[prompt, image[prompt]] = torch.tensor(own, dtype=torch.float64)

    def rewrite(scores, layer):
        out = scores.clone()
        out[:, :, -1] = scores[:, :, -1] + strength[:, None] * scores[:, :, -1].abs()
        return out

    agrees(model, inputs, imbalanced(model, layers=LAYERS), rewrite)


@pytest.mark.parametrize("keep", [0.5, 0.1])
def test_inhibition(model, inputs, keep):
    by_hand = inhibited_by_hand(inputs["input_ids"], model.hf.config.image_token_index, keep)
    agrees(model, inputs, [inhibit_cross_modal(model, keep)], by_hand)


def test_no_attention_among_patches(model, inputs, image):
    among = image[:, :, None] & image[:, None] & ~torch.eye(image.shape[1], dtype=torch.bool)
    agrees(
        model,
        inputs,
        [no_attention_among_patches(model)],
        lambda scores, layer: scores.masked_fill(among[:, None], -torch.inf),
    )


def test_patches_that_see_the_question_do_not_hear_of_the_answer(model, inputs, image):
    answer = inputs["input_ids"].shape[1] - 1
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][:, answer] = inputs["input_ids"][:, answer] - 1
    with torch.no_grad():
        plain = model(inputs)
        own, other = (model(mutual_attention(model, each, answer)) for each in (inputs, changed))
    # by the second layer patches know the question
    assert torch.equal(own[:, :answer], other[:, :answer]) and not torch.equal(own[:, answer], other[:, answer])
    assert (own - plain)[image].abs().amax(-1).min() > 0.01


def test_guided_descriptions(model):
    (_, inputs), *_ = headlens.tasks.scenes(model, n=3, seed=3).batches(3)
    asked = {**inputs, "input_ids": inputs["input_ids"][:, :37]}
    describe = model.tokenizer.tokenizer.convert_tokens_to_ids("describe")
    asked["input_ids"] = torch.cat([asked["input_ids"], torch.full((3, 1), describe)], 1)
    settings = {"max_new_tokens": 12, "do_sample": False}
    plain = model.generate(asked, **settings)
    same, cut, other = (
        model.generate(asked, logits_processor=[guidance(model, asked, gamma, share)], **settings)
        for gamma, share in ((1.0, 0.0), (1.0, 0.1), (-5.0, 0.0))
    )
    assert torch.equal(same, plain) and torch.equal(cut, plain)
    assert other.shape != plain.shape or not torch.equal(other, plain)
