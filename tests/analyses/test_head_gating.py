"""Heads switched off by the size of their queries, against a loop over tokens."""

import numpy as np
import pytest
import torch

from headlens.analyses.edit_losses import losses
from headlens.analyses.head_gating import gating_probe
from headlens.hooks.edits import Call
from headlens.hooks.norm_gate import NormGate
from tiny_models import held, inputs_for


def by_hand(model, windows, off):
    """Loss with the `off` heads of smallest query norm silenced at every token, one token at a time."""
    _, cache = model.record(windows, names_filter=["rot_q"])
    # norms of later layers depend on what earlier ones silenced, so layer by layer
    silenced = {}

    def silence(layer):
        def hook(z, hook):
            for prompt, pos in np.ndindex(z.shape[:2]):
                for head in silenced[layer][prompt][pos]:
                    z[prompt, pos, head] = 0
            return z

        return Call(f"blocks.{layer}.attn.hook_z", hook)

    for layer in range(model.n_layers):
        hooks = [silence(before) for before in range(layer)]
        with model.edited(*hooks):
            _, cache = model.record(windows, names_filter=["rot_q"])
        norms = cache[f"blocks.{layer}.attn.hook_rot_q"].norm(dim=-1)
        silenced[layer] = [[sorted(range(len(n)), key=n.tolist().__getitem__)[:off] for n in row] for row in norms]
    return losses(model, windows, [silence(layer) for layer in range(model.n_layers)])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_smallest_queries_are_switched_off(name):
    model, windows = held(name), inputs_for(name, batch=3, length=9)["input_ids"]
    torch.testing.assert_close(
        losses(model, windows, [NormGate(0.5)]), by_hand(model, windows, 2), rtol=1e-4, atol=1e-5
    )


def test_the_probe_pairs_its_arms():
    model, windows = held("llama"), inputs_for("llama", batch=6, length=9)["input_ids"]
    found = gating_probe(model, windows, off=0.25, draws=2, seed=5, progress=False)
    base = losses(model, windows)
    arms = [[NormGate(0.25)], [NormGate(0.25, "largest")], [NormGate(0.25, "random", 5)], [NormGate(0.25, "random", 6)]]
    costs = torch.stack([losses(model, windows, arm) - base for arm in arms], 1).numpy()
    want = np.stack([costs[:, 0], costs[:, 1], costs[:, 2:].mean(1), costs[:, 0] - costs[:, 2:].mean(1)], 1)
    assert found.coords["metric"] == ("smallest", "largest", "random", "smallest - random")
    np.testing.assert_allclose(found.samples, want, atol=1e-5)
    assert found.provenance["off"] == 0.25


def test_no_draws():
    with pytest.raises(ValueError, match="draws=0 was given"):
        gating_probe(held("llama"), inputs_for("llama")["input_ids"], draws=0)
