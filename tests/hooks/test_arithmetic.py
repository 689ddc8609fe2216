"""The least arithmetic of a cell, against the rows that a plain run with the patch changes and reads."""

import pytest
import torch

from headlens.hooks.arithmetic import least_flops
from headlens.hooks.sites import Head
from tiny_models import held, inputs_for

PROMPTS, LENGTH, START = 3, 11, 4
SUFFIX = LENGTH - START
LAYERS = [0, 1, 2]


def run(model, tokens, projection=None, positions=()):
    """Each linear layer's input and the gradient of the last logits at its output, with noise put into one head's z."""
    inputs, outputs = {}, {}

    def disturb(module, args):
        z = args[0].clone()
        z[:, positions, :8] += torch.randn(len(z), len(positions), 8, generator=torch.Generator().manual_seed(5))
        return (z,)

    def keep(module, args, output):
        inputs[module] = args[0].detach()
        outputs[module] = output
        output.retain_grad()

    linears = [m for layer in model.layers for m in layer.block.modules() if isinstance(m, torch.nn.Linear)]
    handles = [linear.register_forward_hook(keep) for linear in linears]
    if projection is not None:
        handles.append(projection.register_forward_pre_hook(disturb))
    model.hf(input_ids=tokens, use_cache=False).logits[:, -1].square().sum().backward()
    for handle in handles:
        handle.remove()
    model.hf.zero_grad()
    return inputs, {linear: output.grad for linear, output in outputs.items()}


@pytest.mark.parametrize("positions", [[4, 5, 6, 7, 8, 9, 10], [4], [10]], ids=["all", "one", "the one read"])
@pytest.mark.parametrize("layer", LAYERS)
def test_only_rows_that_move_and_are_read_count(layer, positions):
    model, tokens = held("llama"), inputs_for("llama", batch=PROMPTS, length=LENGTH)["input_ids"]
    projection = model.layers[layer].output_projection
    (plain, _), (moved, gradients) = run(model, tokens), run(model, tokens, projection, positions)
    assert set(plain) == set(moved) == set(gradients)
    weights = {linear: linear.weight.numel() for linear in plain if linear is not projection}
    expected = sum(
        2 * size * int(((plain[linear] != moved[linear]).any(-1) & (gradients[linear] != 0).any(-1)).sum())
        for linear, size in weights.items()
    )
    suffix = LENGTH - positions[0]
    assert expected > 0 or (layer == 2 and positions == [4])
    assert least_flops(model, [Head(layer, 0)], PROMPTS, suffix, len(positions)) == expected


def test_cells_add_up():
    model = held("llama")
    alone = [least_flops(model, [Head(layer, 0)], PROMPTS, SUFFIX) for layer in LAYERS]
    cells = [Head(0, 1), Head(2, 3), Head(0, 0)]
    assert least_flops(model, cells, PROMPTS, SUFFIX) == 2 * alone[0] + alone[2]
    assert least_flops(model, cells, PROMPTS, SUFFIX, SUFFIX) == 2 * alone[0] + alone[2]
