"""The temperature probes, against finite differences of real runs and the formula of 2411.12892's code."""

import math

import numpy as np
import pytest
import torch

from headlens.analyses.edit_losses import losses
from headlens.analyses.temperature import position_temperature, temperature_slopes
from headlens.hooks.row_edits import Temperature
from tiny_models import held, inputs_for


# not gpt_oss, whose experts switch within the smallest step
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mistral"])
def test_the_slope_is_what_a_small_temperature_does(name):
    model, windows = held(name), inputs_for(name, batch=3, length=13)["input_ids"]
    found = temperature_slopes(model, windows, progress=False)
    step = 0.01
    for layer, head in np.ndindex(found.values.shape):
        up, down = (losses(model, windows, [Temperature((layer, head), 1 + sign * step)]).numpy() for sign in (1, -1))
        slope = (up - down) / (2 * step)
        np.testing.assert_allclose(found.samples[:, layer, head], slope, atol=2e-3, rtol=0.02)
    assert np.abs(found.values).max() > 0.01


def test_the_slopes_leave_the_model_without_gradients():
    model = held("llama")
    temperature_slopes(model, inputs_for("llama")["input_ids"], progress=False)
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_tau_grows_with_the_logarithm_of_the_absolute_position():
    tau = position_temperature(1.5)(torch.tensor([0, 1, 99]))
    strength = math.exp(-math.exp(1.5))
    assert tau.tolist() == pytest.approx([1.0, 1 + strength * math.log(2), 1 + strength * math.log(100)])


def test_a_temperature_by_position_is_the_same_in_cached_steps():
    model, tokens = held("llama"), inputs_for("llama", batch=2, length=11)["input_ids"]
    edit = Temperature("all", position_temperature(-1.0))
    with torch.no_grad(), model.edited(edit):
        whole = model(tokens)
        cache, steps = None, []
        for at in range(tokens.shape[1]):
            out = model.hf(input_ids=tokens[:, at : at + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)
    assert (whole - model(tokens)).abs().max() > 0.1


def test_what_does_not_fit():
    windows = inputs_for("llama")["input_ids"]
    with pytest.raises(ValueError, match="does not predict the next token"):
        temperature_slopes(held("bert"), windows)
    with pytest.raises(ValueError, match=r"Windows of shape \[2, 1\]"):
        temperature_slopes(held("llama"), windows[:, :1])
    with pytest.raises(ValueError, match="65 tokens .* 64 positions"):
        temperature_slopes(held("gpt2"), torch.full((2, 65), 7))
