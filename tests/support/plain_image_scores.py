"""A model's attention once more, in float64 and in whole rows, with scores rewritten by a test."""

from contextlib import contextmanager

import torch
from transformers import AttentionInterface

NAME = "plain_image_scores"


@contextmanager
def rewritten_by_hand(hf, rewrite, layers, window=None):
    """Runs of whole prompts without padding; `rewrite(scores, layer)` has [batch, head, row, key], -inf at hidden keys,
    and returns what softmax is taken of. `window`: how many keys a row sees, itself among them."""
    language = hf.model.language_model if hasattr(hf.model, "language_model") else hf.model

    def attention(module, query, key, value, mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (each.double().repeat_interleave(groups, 1) for each in (key, value))
        scores = query.double() @ key.transpose(2, 3) * scaling
        at = torch.arange(scores.shape[-1])
        ago = at[:, None] - at
        scores = scores.masked_fill((ago < 0) | (ago >= (window or len(at))), -torch.inf)
        if module.layer_idx in layers:
            scores = rewrite(scores, module.layer_idx)
        return (scores.softmax(-1) @ value).transpose(1, 2).to(query.dtype).contiguous(), None

    AttentionInterface.register(NAME, attention)
    before = language.config._attn_implementation
    language.config._attn_implementation = NAME
    try:
        with torch.no_grad():
            yield
    finally:
        language.config._attn_implementation = before


def raised_by_hand(ids, image_token, alpha, rows=(-1,), heads=None, centred=False):
    """PAI's rewriting, entry by entry."""

    def rewrite(scores, layer):
        out = scores.clone()
        for prompt in range(len(scores)):
            for head in range(scores.shape[1]) if heads is None else heads:
                for row in rows:
                    own = scores[prompt, head, row]
                    mean = own[own != -torch.inf].mean() if centred else 0.0
                    for key in range(len(own)):
                        if ids[prompt, key] == image_token and own[key] != -torch.inf:
                            out[prompt, head, row, key] = own[key] + alpha * abs(own[key] - mean)
        return out

    return rewrite
