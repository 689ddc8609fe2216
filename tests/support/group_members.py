"""Which keys a group has, seen by cutting them out of recorded rows."""

import torch

from headlens.hooks.row_edits import KnockOut


def members(model, inputs, group, layer=1):
    """[prompt, row, key]: the keys of the group that the rows of head 2 can see."""
    site = f"blocks.{layer}.attn.hook_pattern"
    visible = model.record(inputs, names_filter=site)[1][site][:, 2] > 0
    with model.edited(KnockOut(f"L{layer}H2", groups=group, policy="raw")):
        cut = model.record(inputs, names_filter=site)[1][site][:, 2] == 0
    return cut & visible, visible


def expected(visible, belongs):
    """`belongs(prompt, row, key)` at every visible key."""
    out = torch.zeros_like(visible)
    for prompt, row, key in visible.nonzero().tolist():
        out[prompt, row, key] = bool(belongs(prompt, row, key))
    return out
