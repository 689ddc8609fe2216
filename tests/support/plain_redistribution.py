"""Visual attention redistribution (2503.03321) once more: a LLaVA's attention row by row in plain numpy."""

from contextlib import contextmanager

import numpy as np
import torch
from transformers import AttentionInterface

NAME = "plain_redistribution"


def moved_by_hand(row, sinks, image, move, non_sink, floor, bias=0.0):
    """One row of attention after the edit; `sinks` and `image` are sets of keys. And whether it was chosen."""
    visual = sum(row[key] for key in image)
    share = sum(row[key] for key in image & sinks) / (visual + bias * len(image)) if visual else 1.0
    takers = sorted(image - sinks)
    taking = sum(row[key] for key in takers)
    if visual < floor or 1 - share < non_sink or not taking:
        return row, False
    out = row.copy()
    budget = move * sum(row[key] for key in sinks if key < len(row))
    for key in sinks:
        out[key] = (1 - move) * row[key]
    for key in takers:
        out[key] = row[key] + budget * row[key] / taking
    return out, True


@contextmanager
def redistributed_by_hand(hf, image_token, layers, dims, above, **settings):
    """Runs of whole prompts without padding, with the language model's attention computed here."""
    known, streams = {}, {}
    language = hf.model.language_model

    def read(module, args, kwargs):
        known["ids"] = kwargs["input_ids"].numpy()

    def note(module, args, kwargs):
        streams[module.self_attn.layer_idx] = (args[0] if args else kwargs["hidden_states"]).double().numpy()

    def attention(module, query, key, value, mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (each.double().repeat_interleave(groups, 1) for each in (key, value))
        scores = query.double() @ key.transpose(2, 3) * scaling
        length = scores.shape[-1]
        pattern = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1).numpy()
        if module.layer_idx in layers:
            for prompt, head, row in np.ndindex(*pattern.shape[:3]):
                pattern[prompt, head, row] = _row(pattern[prompt, head, row], module.layer_idx, prompt, row)
        return (torch.from_numpy(pattern) @ value).transpose(1, 2).to(query.dtype).contiguous(), None

    def _row(own, layer, prompt, row):
        ids, stream = known["ids"][prompt], streams[layer][prompt]
        sizes = np.abs(stream[:, list(dims)]) / np.sqrt((stream**2).mean(-1, keepdims=True))
        sinks = {int(key) for key in np.flatnonzero((sizes > above).any(-1))}
        image = {int(key) for key in np.flatnonzero(ids == image_token)}
        if row in image or not any(key < row for key in image):
            return own
        return moved_by_hand(own, sinks, image, **settings)[0]

    AttentionInterface.register(NAME, attention)
    before = language.config._attn_implementation
    handles = [hf.register_forward_pre_hook(read, with_kwargs=True)]
    handles += [block.register_forward_pre_hook(note, with_kwargs=True) for block in language.layers]
    language.config._attn_implementation = NAME
    try:
        with torch.no_grad():
            yield
    finally:
        language.config._attn_implementation = before
        for handle in handles:
            handle.remove()
