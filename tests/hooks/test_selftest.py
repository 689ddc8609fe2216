"""The self-test at load: models that cannot be held are refused by name, with the reason."""

import pytest
import torch

from headlens.hooks import discover
from headlens.hooks.model import wrap
from tiny_models import HELD, REFUSED, held, tiny


@pytest.mark.parametrize("name", HELD)
def test_sizes_are_found(name):
    model = held(name)
    kv_heads = {"llama", "qwen3", "gemma2", "gemma3", "mistral", "phi3", "cohere", "gpt_oss", "llava"}
    assert (model.n_layers, model.n_heads, model.d_head, model.d_model) == (3, 4, 8, 32)
    assert model.n_kv_heads == (2 if name in kv_heads else 4)
    expected = {"t5": {"main", "encoder", "cross"}, "llava": {"main", "vision"}}
    assert set(model.towers) == expected.get(name, {"main"})
    assert model.towers["main"].is_causal == (name not in ("bert", "vit", "clip_vision"))
    assert all(layer.mlp is not None for layer in model.layers)


@pytest.mark.parametrize("name", REFUSED)
def test_architectures_outside_the_interface_are_refused_by_name(name):
    hf = tiny(name)
    with pytest.raises(ValueError, match=f"{type(hf).__name__} is refused: .*AttentionInterface"):
        wrap(hf)


def test_nan_weights_are_named():
    hf = tiny("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(
        ValueError,
        match=r"LlamaForCausalLM is refused: its weight model\.layers\.1\.mlp\.up_proj\.weight holds NaN",
    ):
        wrap(hf)


def test_an_unfaithful_attention_is_refused(monkeypatch):
    """Attention that headlens would compute differently from the model: scaled once more than it should be."""
    hf = tiny("llama")
    original = discover.Attention.scores
    monkeypatch.setattr(discover.Attention, "scores", lambda self: 1.5 * original(self))
    with pytest.raises(ValueError, match="LlamaForCausalLM is refused: recomputing the attention"):
        wrap(hf)


def test_a_model_that_loses_edits_is_refused():
    """A model whose output projections are zero never lets a head reach its output."""
    hf = tiny("llama")
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    with pytest.raises(ValueError, match="edits would be lost"):
        wrap(hf)
