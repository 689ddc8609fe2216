"""The least arithmetic of a cell, against what torch counts while the engine runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from headlens.hooks.arithmetic import least_flops
from headlens.hooks.base_run import record_base
from headlens.hooks.replay import replay
from headlens.hooks.sites import Head
from tiny_models import held, inputs_for

PROMPTS, LENGTH, START = 3, 11, 4
SUFFIX = LENGTH - START


def counted(model, cells):
    """Operations of matrix products (but for attention's) while these cells, of ascending layers, are replayed."""
    tokens = inputs_for("llama", batch=PROMPTS, length=LENGTH)["input_ids"]
    base = record_base(model, tokens, START)
    delta = torch.zeros(1, PROMPTS, SUFFIX, model.d_model)
    with FlopCounterMode(display=False) as counter:
        replay(model, base, {cell.layer: delta for cell in cells}, START, torch.zeros(PROMPTS, 1, dtype=torch.long))
    return sum(count for name, count in counter.get_flop_counts()["Global"].items() if name.__name__ == "mm")


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_cell(layer):
    model = held("llama")
    width, keys, hidden = 32, 16, 48
    attention, mlp = 2 * width * width + 2 * width * keys, 3 * width * hidden
    rows = PROMPTS * SUFFIX
    # the last layer's queries, keys and values are computed at every row, its output and MLP where it is read
    last = rows * (attention - width * width) + PROMPTS * (width * width + mlp)
    by_hand = {0: rows * (mlp + attention + mlp) + last, 1: rows * mlp + last, 2: PROMPTS * mlp}
    assert least_flops(model, [Head(layer, 1)], PROMPTS, SUFFIX) == 2 * by_hand[layer]


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_the_engine_does_little_more(layers):
    model, cells = held("llama"), [Head(layer, 0) for layer in layers]
    # it projects the last layer's attention at every row, of which all but the one that is read could be spared
    spare = 2 * PROMPTS * (SUFFIX - 1) * 32 * 32 * sum(layer < 2 for layer in layers)
    assert counted(model, cells) == least_flops(model, cells, PROMPTS, SUFFIX) + spare
