"""Answers and their attention by transformers alone: eager attention, one prompt at a time, in cached steps."""

import torch

from tiny_models import tiny


def plain_answer(inputs, count, hf=None):
    """The tokens said, and for each the newest row of attention, [layer, head, key] in float64. The tiny LLaVA's, or of
    `hf`, which stays in eager attention."""
    hf = hf or tiny("llava")
    hf.set_attn_implementation("eager")
    out = hf.generate(
        **inputs,
        max_new_tokens=count,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    said = out.sequences[0, inputs["input_ids"].shape[1] :]
    rows = [torch.stack([layer[0, :, -1].double() for layer in step]) for step in out.attentions]
    return said, rows


def plain_patterns(inputs, hf=None):
    """Attention [layer, head, query, key] of a prompt's own tower, and of its vision tower, [layer, picture, ...]."""
    hf = hf or tiny("llava")
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        own = torch.stack([each[0] for each in hf(**inputs, output_attentions=True).attentions]).double()
        seen = hf.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions
    return own, torch.stack([*seen]).double()
