"""Head divergence and reinforcement on every vision-language architecture, against hooks of torch alone."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from headlens.analyses.vision.divergence.blind_reader import blind_reader, demands_pictures
from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.divergence.reinforcement import reinforce
from headlens.analyses.vision.samples import Samples
from tiny_vlms import IMAGE_TOKEN, VLMS, held_vlm
from vlm_inputs import inputs_for_vlm

OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def samples_of(name):
    return Samples("two", tuple(inputs_for_vlm(name, (1,), seed=seed) for seed in (1, 5)))


def plain_z(model, hf, inputs):
    """What goes into each output projection at the last token, by hooks of torch alone: [layer, head, d_head]."""
    kept, stack = [], ExitStack()
    with torch.no_grad(), stack:
        for layer in model.layers:
            note = layer.output_projection.register_forward_pre_hook(lambda _, args: kept.append(args[0][0, -1]))
            stack.callback(note.remove)
        hf(**inputs)
    return torch.stack(kept).reshape(model.n_layers, model.n_heads, -1)


def text_alone(inputs):
    words = inputs["input_ids"][0] != IMAGE_TOKEN
    return {name: inputs[name][:, words] for name in OF_TEXT if name in inputs}


@pytest.mark.parametrize("name", VLMS)
def test_divergence_is_that_of_plain_runs(name):
    model, samples = held_vlm(name), samples_of(name)
    found = divergence(model, samples, progress=False)
    for own, inputs in zip(found.samples, samples.inputs, strict=True):
        text = text_alone(inputs)
        if name == "instructblip":
            text = {key: text[key] for key in ("input_ids", "attention_mask")}
        hf = model.hf.language_model if name == "instructblip" else model.hf
        apart = plain_z(model, model.hf, inputs) - plain_z(model, hf, text)
        np.testing.assert_allclose(own, apart.norm(dim=-1).numpy(), rtol=1e-3, atol=1e-4)
    # the first layer of Gemma-3 sees the last tokens alone
    assert (found.values[1:] > 1e-3).all()


@pytest.mark.parametrize("name", VLMS)
def test_a_blank_picture_is_another_picture_at_the_same_tokens(name):
    model, samples = held_vlm(name), samples_of(name)
    found = divergence(model, samples, without="blank", progress=False)
    level = 1e-6 if name == "idefics3" else 0.0
    for own, inputs in zip(found.samples, samples.inputs, strict=True):
        blank = {**inputs, "pixel_values": torch.full_like(inputs["pixel_values"], level)}
        apart = plain_z(model, model.hf, inputs) - plain_z(model, model.hf, blank)
        np.testing.assert_allclose(own, apart.norm(dim=-1).numpy(), rtol=1e-3, atol=1e-4)
    assert (found.values > 1e-4).any()


@pytest.mark.parametrize("name", VLMS)
def test_reinforced_heads_speak_louder_from_the_prompt_on(name):
    model, samples = held_vlm(name), samples_of(name)
    inputs = samples.inputs[0]
    found = reinforce(model, samples, alpha=2.0, zero_outliers=False, progress=False)
    assert (found.heads[:, list(found.layers)].sum(-1) == model.n_heads // 2).all()
    first = found.layers[0]
    plain = plain_z(model, model.hf, inputs)[first]
    with model.edited(*found.edits([0])):
        louder = plain_z(model, model.hf, inputs)[first]
        said = model.generate(inputs, max_new_tokens=3, do_sample=False)
    expected = torch.where(torch.from_numpy(found.heads[0, first])[:, None], 2 * plain, plain)
    torch.testing.assert_close(louder, expected, rtol=1e-4, atol=1e-5)
    assert said.shape[1] >= 3


def test_only_a_model_that_demands_pictures_is_read_by_its_language_model():
    assert [name for name in VLMS if demands_pictures(held_vlm(name))] == ["instructblip"]
    model = held_vlm("instructblip")
    reader = blind_reader(model)
    assert reader.hf is model.hf.language_model and blind_reader(model) is reader
    assert blind_reader(held_vlm("llava")) is held_vlm("llava")
