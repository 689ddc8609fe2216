"""Cross-modal inhibition (after 2411.15453) once more, row by row and key by key, for `rewritten_by_hand`."""

import math

import numpy as np
import torch


def inhibited_by_hand(ids, image_token, keep, heads=None):
    """The rewriting of scores; `heads` are all without being named."""
    image = (ids == image_token).numpy()

    def rewrite(scores, layer):
        out, seen, pattern = scores.clone(), (scores != -torch.inf).numpy(), scores.softmax(-1).numpy()
        for prompt, head, row in np.ndindex(*scores.shape[:3]):
            if image[prompt, row] or (heads is not None and head not in heads):
                continue
            own = pattern[prompt, head]
            keys = [key for key in range(row + 1) if seen[prompt, head, row, key]]
            patches = [key for key in keys if image[prompt, key]]
            text = [key for key in keys if not image[prompt, key]]
            found = {patch: sum(own[row, key] * own[key, patch] for key in text) for patch in patches}
            ranked = sorted(patches, key=lambda patch: -found[patch])
            for patch in ranked[math.ceil(round(keep * len(patches), 6)) :]:
                out[prompt, head, row, patch] = -torch.inf
        return out

    return rewrite
