"""What edits cost on text, against transformers' own loss."""

import numpy as np
import pytest
import torch

from headlens.analyses.edit_losses import edit_losses
from headlens.hooks.edits import Ablate, Gate
from tiny_models import held, inputs_for


@pytest.fixture
def windows():
    return inputs_for("llama", batch=7, length=12)["input_ids"]


def own_loss(model, windows):
    with torch.no_grad():
        return [float(model.hf(input_ids=row[None], labels=row[None]).loss) for row in windows]


def test_the_change_of_the_models_own_loss(windows):
    model = held("llama")
    edits = {"nothing": [Gate("L0H0", 1.0)], "two heads off": [Ablate("L1H2"), Gate("L2H0", 0.0)]}
    found = edit_losses(model, windows, edits, progress=False)
    before = own_loss(model, windows)
    with model.edited(*edits["two heads off"]):
        after = own_loss(model, windows)
    assert found.dims == ("metric",) and found.coords["metric"] == ("nothing", "two heads off")
    np.testing.assert_array_equal(found.samples[:, 0], 0)
    np.testing.assert_allclose(found.samples[:, 1], np.subtract(after, before), atol=2e-6)
    assert found.provenance["loss"] == pytest.approx(np.mean(before), abs=1e-5)
    assert found.ci().low[1] < found.values[1] < found.ci().high[1]


def test_windows_in_several_forwards(windows, monkeypatch):
    model, edits = held("gpt2"), {"off": [Ablate("L0H0")]}
    whole = edit_losses(model, windows, edits, progress=False)
    monkeypatch.setattr("headlens.analyses.edit_losses._TOKENS", 30)
    np.testing.assert_allclose(edit_losses(model, windows, edits, progress=False).samples, whole.samples, atol=2e-6)


def test_what_does_not_fit(windows):
    with pytest.raises(ValueError, match="does not predict the next token"):
        edit_losses(held("bert"), windows, {"off": [Ablate("L0H0")]})
    with pytest.raises(ValueError, match=r"Windows of shape \[7, 1\]"):
        edit_losses(held("llama"), windows[:, :1], {"off": [Ablate("L0H0")]})
    with pytest.raises(ValueError, match="No edits were given"):
        edit_losses(held("llama"), windows, {})
    with pytest.raises(ValueError, match="does not predict the next token"):
        edit_losses(held("t5"), windows, {"off": [Ablate("L0H0")]})
    with pytest.raises(ValueError, match="65 tokens .* 64 positions"):
        edit_losses(held("gpt2"), torch.full((2, 65), 7), {"off": [Ablate("L0H0")]})
