"""Masks among patches and text against dense ones made entry by entry, and what must not leak."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.relatives.attention_masks import (
    mutual_attention,
    mutual_mask,
    no_attention_among_patches,
    patch_free_mask,
)
from plain_image_scores import rewritten_by_hand
from tiny_models import IMAGE_TOKEN, held, tiny
from tiny_samples import sample, together

ONE = together(sample(9, seed=1), sample(9, seed=2), sample(9, seed=3))
TWO_PICTURES = together(*(sample(7, pictures=2, seed=seed, start=(2, 11)) for seed in (4, 5)))
BATCHES = pytest.mark.parametrize("inputs", [ONE, TWO_PICTURES], ids=["batch of 3", "two pictures each"])
PATTERN = "blocks.1.attn.hook_pattern"


@pytest.fixture(scope="module")
def plain_model():
    """The same weights, which no part of headlens has held."""
    return tiny("llava")


def apart(image, row, key, answer):
    """NAAViT."""
    return key <= row and not (image[row] and image[key] and row != key)


def mutual(image, row, key, answer):
    """Mutual attention."""
    return key <= row or (bool(image[row]) and not image[key] and key < answer)


def dense(ids, rule, answers):
    image, length = (ids == IMAGE_TOKEN).numpy(), ids.shape[1]
    seen = np.zeros((len(ids), length, length), bool)
    for prompt, row, key in np.ndindex(*seen.shape):
        seen[prompt, row, key] = rule(image[prompt], row, key, answers[prompt])
    return torch.from_numpy(seen)


@BATCHES
def test_masks_are_those_made_entry_by_entry(inputs):
    ids = inputs["input_ids"]
    image, length = ids == IMAGE_TOKEN, ids.shape[1]
    assert torch.equal(patch_free_mask(image), dense(ids, apart, [length] * len(ids)))
    answers = [length - 3, length - 5, length][: len(ids)]
    assert torch.equal(mutual_mask(image, torch.tensor(answers)), dense(ids, mutual, answers))


@BATCHES
def test_patches_apart_are_a_run_under_the_dense_mask(plain_model, inputs):
    model, seen = held("llava"), dense(inputs["input_ids"], apart, [99] * 3)[:, None]
    with rewritten_by_hand(plain_model, lambda scores, layer: scores.masked_fill(~seen, -torch.inf), [0, 1, 2]):
        expected = plain_model(**inputs).logits
    with torch.no_grad():
        plain = model(inputs)
        with model.edited(no_attention_among_patches(model)):
            found = model(inputs)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


def test_only_rows_of_patches_change_in_the_layer_itself():
    model, image = held("llava"), TWO_PICTURES["input_ids"] == IMAGE_TOKEN
    plain = model.record(TWO_PICTURES, names_filter=["z", "v", PATTERN])[1]
    with model.edited(no_attention_among_patches(model, heads=["L1H0", "L1H3"])):
        found = model.record(TWO_PICTURES, names_filter=["z", PATTERN])[1]
    z, before = (each["blocks.1.attn.hook_z"] for each in (found, plain))
    assert torch.equal(z[:, :, [1, 2]], before[:, :, [1, 2]])
    changed = (found[PATTERN] != plain[PATTERN]).any(-1)[:, [0, 3]]
    assert not changed[~image[:, None].expand_as(changed)].any()
    # every patch but the first of a prompt had others to look at
    assert int(changed.sum()) == 2 * 2 * (32 - 1)
    torch.testing.assert_close(found[PATTERN].sum(-1), torch.ones(changed.shape[0], 4, image.shape[1]))


def test_a_patch_with_nothing_before_it_says_its_own_value():
    model = held("llava")
    with model.edited(no_attention_among_patches(model)):
        kept = model.record(ONE, names_filter=["z", "v"])[1]
    z, value = kept["blocks.2.attn.hook_z"][:, :16], kept["blocks.2.attn.hook_v"][:, :16]
    torch.testing.assert_close(z, value.repeat_interleave(2, 2), atol=1e-6, rtol=0)


def test_cached_steps_without_attention_among_patches_are_the_rows_of_a_whole_run():
    model, last = held("llava"), ONE["input_ids"].shape[1] - 1
    with model.edited(no_attention_among_patches(model)):
        steps = model.hf.generate(
            **ONE, max_new_tokens=5, min_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        with torch.no_grad():
            whole = model({**ONE, "input_ids": steps.sequences[:, :-1]})
    torch.testing.assert_close(torch.stack(steps.logits, 1), whole[:, last:], atol=3e-5, rtol=0)


def dense_run(hf, inputs, seen):
    """Logits under a mask, with scores that are all visible to begin with."""
    from transformers import AttentionInterface

    def attention(module, query, key, value, mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (each.double().repeat_interleave(groups, 1) for each in (key, value))
        scores = (query.double() @ key.transpose(2, 3) * scaling).masked_fill(~seen[:, None], -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2).to(query.dtype).contiguous(), None

    AttentionInterface.register("plain_masks", attention)
    config = hf.model.language_model.config
    before, config._attn_implementation = config._attn_implementation, "plain_masks"
    try:
        with torch.no_grad():
            return hf(**inputs).logits
    finally:
        config._attn_implementation = before


@BATCHES
def test_mutual_attention_is_a_run_under_the_dense_mask(plain_model, inputs):
    model, length = held("llava"), inputs["input_ids"].shape[1]
    answers = [length - 2, length - 4, length][: len(inputs["input_ids"])]
    expected = dense_run(plain_model, inputs, dense(inputs["input_ids"], mutual, answers))
    with torch.no_grad():
        plain, found = model(inputs), model(mutual_attention(model, inputs, answers))
        image = inputs["input_ids"] == IMAGE_TOKEN
    assert (expected - plain)[image].abs().amax(-1).min() > 0.01
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


def test_recordings_and_edits_are_under_the_mask_too():
    from headlens.analyses.vision.relatives.pai import pai

    model, given = held("llava"), mutual_attention(held("llava"), ONE, 22)
    seen = dense(ONE["input_ids"], mutual, [22] * 3)[:, None]
    with model.edited(pai(model, 0.5, layers=[1])):
        pattern = model.record(given, names_filter=PATTERN)[1][PATTERN]
    assert torch.equal(pattern > 0, seen.expand_as(pattern))


def test_no_patch_hears_of_the_answer():
    model, answer = held("llava"), 20
    rows, changed = [], {**ONE, "input_ids": ONE["input_ids"].clone()}
    changed["input_ids"][:, answer:] = (changed["input_ids"][:, answer:] + 7) % 90
    for inputs in (ONE, changed):
        given = mutual_attention(model, inputs, answer)
        kept = model.record(given, names_filter=["resid_post"])[1]
        rows.append([kept[f"blocks.{layer}.hook_resid_post"] for layer in range(3)])
    for own, other in zip(*rows, strict=True):
        assert torch.equal(own[:, :answer], other[:, :answer])
        assert not torch.isclose(own[:, answer:], other[:, answer:]).all()
    # without the answer's place they would
    leaking = [model(mutual_attention(model, inputs)) for inputs in (ONE, changed)]
    assert (leaking[0] - leaking[1])[:, :16].abs().max() > 0.01


def test_going_on_from_a_prompt_is_a_whole_run_that_knows_the_answers_place():
    model, prompt = held("llava"), 21
    with torch.no_grad():
        whole = model(mutual_attention(model, ONE, prompt))
        with model.edited():
            asked = {**ONE, "input_ids": ONE["input_ids"][:, :prompt]}
            out = model.hf(**mutual_attention(model, asked), use_cache=True)
            found = [out.logits[:, -1]]
            for at in range(prompt, 25):
                out = model.hf(input_ids=ONE["input_ids"][:, at : at + 1], past_key_values=out.past_key_values)
                found.append(out.logits[:, -1])
    torch.testing.assert_close(torch.stack(found, 1), whole[:, prompt - 1 :], atol=3e-5, rtol=0)


def test_what_cannot_be_is_refused():
    model = held("llava")
    padded = torch.ones_like(ONE["input_ids"]).index_fill(1, torch.tensor([0]), 0)
    for given, words in (
        ({"inputs": {**ONE, "attention_mask": padded}}, "expected none, or one that hides nothing"),
        ({"inputs": mutual_attention(model, ONE)}, r"attention_mask of shape \[3, 4, 25, 25\]"),
        ({"inputs": ONE, "answer": 26}, "answer=26 was given for 3 prompts of 25 tokens"),
        ({"inputs": ONE, "answer": [3, 4]}, "expected one position, or one for each prompt"),
        ({"inputs": ONE, "answer": -1}, "negative"),
    ):
        with pytest.raises(ValueError, match=words):
            mutual_attention(model, **given)
    with pytest.raises(ValueError, match="does not have plain causal attention"):
        mutual_attention(held("gemma3"), ONE)
    for function in (no_attention_among_patches, lambda model: mutual_attention(model, ONE)):
        with pytest.raises(ValueError, match="names no image token"):
            function(held("llama"))
