"""Attention rows edited one by one in numpy, by a hook at `pattern`: what recalibrations are compared with."""

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch

from headlens.hooks.edits import Call
from headlens.hooks.sites import parse_head

# From prompt, position of the row, and its attention by absolute position (NaN where it may not look) to new attention.
RowRule = Callable[[int, int, np.ndarray], np.ndarray]


@contextmanager
def edited_by_hand(model, heads, rule: RowRule):
    """Runs with every row of these heads replaced by what the rule makes of it."""
    with model.edited(*(by_hand(head, rule) for head in heads)):
        yield


def by_hand(head, rule: RowRule) -> Call:
    layer, index = parse_head(head)

    def function(pattern, hook):
        for prompt in range(pattern.shape[0]):
            for row in range(pattern.shape[2]):
                own = pattern[prompt, index, row].double().numpy()
                seen = np.full(hook.key_start + len(own), np.nan)
                seen[hook.key_start :] = np.where(own > 0, own, np.nan)
                new = np.nan_to_num(rule(prompt, hook.query_start + row, seen))[hook.key_start :]
                pattern[prompt, index, row] = torch.from_numpy(new)

    return Call(f"blocks.{layer}.attn.hook_pattern", function)


def multiplied(row, multipliers):
    """Each visible key times its multiplier, 1 unless it is named by position; not renormalised."""
    out = row.copy()
    for key, multiplier in multipliers.items():
        if key < len(out):
            out[key] *= multiplier
    return out


def renormalised(before, after):
    """Divided by what the multiplied row sums to. What learned sinks take (1 minus a row's sum) stays unmultiplied."""
    return after / (np.nansum(after) + 1 - np.nansum(before))


def moved(row, donors, receivers, beta):
    """Donors keep beta, receivers take the rest in proportion; rows without a receiver stay."""
    given = sum((1 - beta) * row[key] for key in donors if key < len(row) and row[key] > 0)
    taking = sum(row[key] for key in receivers if key < len(row) and row[key] > 0)
    if taking < 1e-6:
        return row
    out = row.copy()
    for key in range(len(row)):
        if key in donors:
            out[key] *= beta
        elif key in receivers:
            out[key] *= 1 + given / taking
    return out
