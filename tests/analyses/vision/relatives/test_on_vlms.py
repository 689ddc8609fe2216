"""In other architectures (tiles, merged patches, windows, pictures that see all of themselves, a Q-Former): cached
steps are the rows of a whole run, so each edit finds its patches by itself in both."""

import pytest
import torch

from headlens.analyses.vision.relatives.attention_masks import mutual_attention, no_attention_among_patches
from headlens.analyses.vision.relatives.cross_modal_inhibition import inhibit_cross_modal
from headlens.analyses.vision.relatives.guidance import guidance
from headlens.analyses.vision.relatives.pai import pai
from tiny_vlms import IMAGE_TOKEN, held_vlm
from vlm_inputs import continued, inputs_for_vlm

FAMILIES = ("llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma", "idefics3")
STEPS = 4


def edits(kind, model, since):
    everywhere = range(model.n_layers)
    return {
        "pai": lambda: pai(model, 0.6, layers=everywhere, since=since),
        "inhibition": lambda: inhibit_cross_modal(model, 0.4),
        "no attention among patches": lambda: no_attention_among_patches(model),
    }[kind]()


@pytest.mark.parametrize("kind", ["pai", "inhibition", "no attention among patches"])
@pytest.mark.parametrize("name", FAMILIES)
def test_cached_steps_are_the_rows_of_a_whole_run(name, kind):
    model, inputs = held_vlm(name), inputs_for_vlm(name, (1, 1))
    last = inputs["input_ids"].shape[1] - 1
    with torch.no_grad():
        with model.edited(edits(kind, model, None)):
            found = model.hf.generate(
                **inputs,
                max_new_tokens=STEPS,
                min_new_tokens=STEPS,
                do_sample=False,
                suppress_tokens=[IMAGE_TOKEN],
                output_logits=True,
                return_dict_in_generate=True,
            )
        new = found.sequences[:, -STEPS:-1]
        whole = continued(name, inputs, new)
        with model.edited(edits(kind, model, last)):
            expected = model(whole)[:, last:]
        plain = model(whole)[:, last:]
    torch.testing.assert_close(torch.stack(found.logits, 1), expected, atol=5e-5, rtol=0)
    assert (expected - plain).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma3", "paligemma"])
def test_models_whose_mask_says_more_are_refused(name):
    model = held_vlm(name)
    with pytest.raises(ValueError, match="does not have plain causal attention"):
        mutual_attention(model, inputs_for_vlm(name))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_models_that_keep_an_offset_of_positions_are_refused(name):
    with pytest.raises(ValueError, match="keeps the offset of its positions"):
        guidance(held_vlm(name), inputs_for_vlm(name))
