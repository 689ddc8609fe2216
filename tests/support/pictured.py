"""Prompts with pictures for the tiny LLaVAs, and a plain way to run them: transformers' eager attention, one prompt at
a time, hooks on the output projections."""

from contextlib import ExitStack

import torch

from headlens.analyses.vision.samples import Samples
from tiny_models import IMAGE_TOKEN, N_IMAGE_TOKENS

# Text tokens in front of the picture and behind it.
AROUND = ((0, 7), (3, 5), (3, 5), (1, 7), (3, 5))


def pictured(around=AROUND, seed=3):
    draw = torch.Generator().manual_seed(seed)
    inputs = []
    for before, behind in around:
        text = torch.randint(4, 90, (1, before + behind), generator=draw)
        patches = torch.full((1, N_IMAGE_TOKENS), IMAGE_TOKEN)
        ids = torch.cat([text[:, :before], patches, text[:, before:]], 1)
        pixels = torch.randn(1, 3, 16, 16, generator=draw)
        inputs.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
    return Samples("pictured", tuple(inputs), clusters=tuple(f"scene {at // 2}" for at in range(len(inputs))))


def plain_without(inputs, way, position):
    """The picture taken away by hand."""
    if way == "blank":
        return {**inputs, "pixel_values": inputs["pixel_values"] * 0}
    ids = inputs["input_ids"]
    if position == "kept":
        # a picture that is there and that nothing can see
        seen, counted = (ids != IMAGE_TOKEN).long(), torch.arange(ids.shape[1])[None]
        return {**inputs, "attention_mask": seen, "position_ids": counted}
    return {"input_ids": ids[ids != IMAGE_TOKEN][None]}


def plain_run(hf, inputs, louder=None, alpha=1.0):
    """z [pos, layer, head, d_head] of one prompt, and logits [pos, token]; `louder` [layer, head] heads times alpha."""
    hf.set_attn_implementation("eager")
    layers, found = hf.model.language_model.layers, []

    def hook(at):
        def act(module, args):
            z = args[0].unflatten(-1, (hf.config.text_config.num_attention_heads, -1)).clone()
            found.append(z[0].clone())
            if louder is not None:
                z[:, :, torch.as_tensor(louder[at])] *= alpha
            return (z.flatten(2),)

        return act

    with ExitStack() as stack, torch.no_grad():
        for at, layer in enumerate(layers):
            stack.callback(layer.self_attn.o_proj.register_forward_pre_hook(hook(at)).remove)
        embeds = inputs.get("inputs_embeds")
        if embeds is not None:
            logits = hf.lm_head(hf.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state)
        else:
            logits = hf(**inputs, use_cache=False).logits
    return torch.stack(found, 1), logits[0]
