"""Gradients in multipliers and through recalibrated rows, against real steps."""

import numpy as np
import pytest
import torch

from headlens.hooks.edits import Call
from headlens.hooks.model import wrap
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.sink_rule import SinkRule
from tiny_models import GENERATING, held, inputs_for, tiny


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", GENERATING)
def test_the_slope_in_a_log_multiplier_is_its_gradient(name):
    """d metric / d log m, by autograd on a bias of the scores and by two real edits."""
    model, inputs = held(name), inputs_for(name)
    direction = torch.randn(120, generator=torch.Generator().manual_seed(3))
    bias = torch.zeros((), requires_grad=True)

    def biased(scores, hook):
        toward = torch.zeros(4, 1, scores.shape[3])
        toward[1:3, :, [0, 3]] = 1
        return scores + bias * toward

    def metric(step):
        with model.edited(Recalibrate(["L1H1", "L1H2"], {"a": [0, 3]}, {"a": float(np.exp(step))})):
            return float((model(inputs) @ direction).sum())

    with torch.enable_grad(), model.edited(Call("blocks.1.attn.hook_attn_scores", biased)):
        (model(inputs) @ direction).sum().backward()
    slope = (metric(1e-2) - metric(-1e-2)) / 2e-2
    assert abs(slope) > 0.1
    assert bias.grad is not None
    np.testing.assert_allclose(float(bias.grad), slope, rtol=2e-2)


def test_gradients_flow_through_recalibrated_rows():
    """In a weight of the queries, against a finite difference; GPT-2 in float64 rounds nowhere to float32."""
    model, inputs = wrap(tiny("gpt2").double()), inputs_for("gpt2", batch=1)
    edit = Recalibrate("all", donors=SinkRule(alpha=1.2, min_rows=3), receivers="rest", beta=0.2, policy="transfer")
    weight = model.hf.transformer.h[1].attn.c_attn.weight
    with torch.enable_grad(), model.edited(edit):
        model(inputs)[0, -1, 7].backward()
    values = []
    for step in (1e-6, -2e-6):
        weight[5, 9] += step
        with model.edited(edit):
            values.append(float(model(inputs)[0, -1, 7]))
    assert abs(float(weight.grad[5, 9])) > 1e-3
    np.testing.assert_allclose(float(weight.grad[5, 9]), (values[0] - values[1]) / 2e-6, rtol=1e-4)
