"""To TransformerLens and back over the same parameters."""

import pytest
import torch

from headlens.hooks.bridge import from_bridge, to_bridge
from headlens.hooks.model import Model, wrap
from tiny_models import inputs_for, tiny

BRIDGED = ("gpt2", "gpt_neox", "llama", "qwen3", "gemma3", "opt", "phi3")


@pytest.mark.parametrize("name", BRIDGED)
def test_there_and_back_shares_every_parameter(name):
    model, ids = wrap(tiny(name), name=f"tiny-{name}"), inputs_for(name)["input_ids"]
    bridge = model.to_bridge()
    back = Model.from_bridge(bridge)
    with torch.no_grad():
        plain = model(ids)
        torch.testing.assert_close(bridge(ids), plain, rtol=0, atol=2e-5)
        torch.testing.assert_close(back(ids), plain, rtol=0, atol=2e-5)
        # TransformerLens shows joint projections as views of their parts, so storages are compared
        ours = {p.untyped_storage().data_ptr() for p in model.hf.parameters()}
        assert {p.untyped_storage().data_ptr() for p in back.hf.parameters()} == ours
        model.layers[1].output_projection.weight.view(-1)[::2].mul_(2)
        changed = model(ids)
        assert (changed - plain).abs().max() > 1e-3
        torch.testing.assert_close(bridge(ids), changed, rtol=0, atol=2e-5)
        torch.testing.assert_close(back(ids), changed, rtol=0, atol=2e-5)
    assert back.weights_hash == model.weights_hash


def test_the_model_bridged_is_left_alone():
    model = wrap(tiny("llama"))
    classes = [type(module) for module in model.hf.modules()]
    to_bridge(model)
    assert [type(module) for module in model.hf.modules()] == classes


def test_an_architecture_without_adapter_is_one_sentence():
    with pytest.raises(ValueError, match="TransformerLens cannot bridge CLIPVisionModel"):
        to_bridge(wrap(tiny("clip_vision")))


def test_a_folded_bridge_is_refused():
    bridge = to_bridge(wrap(tiny("gpt2")))
    bridge.enable_compatibility_mode()
    with pytest.raises(ValueError, match="compatibility mode"):
        from_bridge(bridge)
