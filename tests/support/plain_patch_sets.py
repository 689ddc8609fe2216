"""Local and summary patches of one picture (2501.12206) in numpy, from transformers' own eager vision tower."""

import numpy as np
import torch


def sets_by_hand(first, last, share=0.25):
    """Of one picture."""
    low, high = np.quantile(last, [0.25, 0.75])
    summary = {int(at) for at in np.flatnonzero(last > high + 1.5 * (high - low))}
    local = {int(at) for at in np.argsort(-first, kind="stable")[: int(share * len(first))]}
    return local - summary, summary


def looked(hf, pixels):
    """What CLS attends to in layer 0 and the last but one, summed over heads."""
    tower = hf.model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = tower(pixels, output_attentions=True).attentions
    return [patterns[at][:, :, 0, 1:].sum(1).double().numpy() for at in (0, -2)]
