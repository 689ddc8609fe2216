"""Samples for the tiny random LLaVA, with one picture or two in a prompt, and massive activations planted in runs."""

import torch

from headlens.analyses.vision.samples import Samples
from headlens.hooks.edits import Call
from tiny_models import IMAGE_TOKEN, N_IMAGE_TOKENS


def sample(length=11, pictures=1, seed=0, start=()):
    """`start`, then each picture with some text behind it, the last with `length` tokens."""
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.tensor([*start], dtype=torch.long)]
    for picture in range(pictures):
        text = length if picture == pictures - 1 else 3
        parts += [torch.full((N_IMAGE_TOKENS,), IMAGE_TOKEN), torch.randint(4, 90, (text,), generator=draw)]
    return {
        "input_ids": torch.cat(parts)[None],
        "pixel_values": torch.randn(pictures, 3, 16, 16, generator=draw),
    }


def samples(n=3, **settings):
    return Samples("tiny", tuple(sample(seed=seed, **settings) for seed in range(n)), details={"seed": 0})


def together(*several):
    """Samples of equal lengths as one batch."""
    return {name: torch.cat([each[name] for each in several]) for name in several[0]}


def planted(at, dim, value, layer=0):
    """`value` added in one dimension behind a layer, at the positions [n], or [prompt, n], of whole prompts."""
    places = torch.as_tensor(at)

    def plant(resid, hook):
        if resid.shape[1] > 1:
            rows = torch.arange(len(resid))[:, None]
            resid[rows, places.expand(len(resid), -1) - hook.query_start, dim] += value

    return Call(f"blocks.{layer}.hook_resid_post", plant)


def pulled(at, score, layer):
    """`score` added to the attention scores of all heads at these keys."""

    def pull(scores, hook):
        scores[..., at] += score

    return Call(f"blocks.{layer}.attn.hook_attn_scores", pull)
