"""NormGate: at every token the heads with the smallest queries say nothing."""

import numpy as np
import pytest
import torch

from headlens.hooks.edits import Call, Gate
from headlens.hooks.model import wrap
from headlens.hooks.norm_gate import NormGate
from tiny_models import GENERATING, HELD, held, inputs_for, tiny


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def model_of(name):
    """Unit weights of a norm on queries would make them all of one size, and rounding would rank them."""
    if name not in ("qwen3", "gemma3"):
        return held(name)
    hf = tiny(name)
    for key, parameter in hf.named_parameters():
        if "q_norm" in key:
            parameter.copy_(torch.linspace(0.2, 2, len(parameter)))
    return wrap(hf)


def ranked(query, largest):
    """Which 2 of 4 heads are off at each token, one token at a time."""
    off = np.zeros(query.shape[:3], dtype=bool)
    for prompt in range(query.shape[0]):
        for pos in range(query.shape[1]):
            sizes = [float(np.sqrt((query[prompt, pos, head].double().numpy() ** 2).sum())) for head in range(4)]
            order = sorted(range(4), key=lambda head: -sizes[head] if largest else sizes[head])
            off[prompt, pos, order[:2]] = True
    return torch.from_numpy(off)


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("by", ["smallest", "largest"])
def test_heads_by_the_size_of_their_queries(name, by):
    model, inputs = model_of(name), inputs_for(name)
    seen = {}

    def note(query, hook):
        seen[hook.layer()] = ranked(query, by == "largest")

    def silence(z, hook):
        z[seen[hook.layer()]] = 0

    layers = range(model.n_layers)
    hooks = [Call(f"blocks.{layer}.attn.hook_rot_q", note) for layer in layers]
    with model.edited(*hooks, *(Call(f"blocks.{layer}.attn.hook_z", silence) for layer in layers)):
        expected = model(inputs)
    with model.edited(NormGate(0.5, by=by)):
        got, cache = model.record(inputs, names_filter="z")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    for layer in layers:
        silent = (cache[f"blocks.{layer}.attn.hook_z"] == 0).all(-1)
        assert torch.equal(silent, seen[layer])
        assert len(silent.unique(dim=1)[0]) > 1, "the same heads at every token"


def test_nothing_off_is_bit_for_bit_the_unedited_run():
    model, inputs = held("llama"), inputs_for("llama")
    with model.edited(NormGate(0.0)):
        assert torch.equal(model(inputs), model(inputs))
    with model.edited(NormGate(0.0)):
        edited = model(inputs)
    assert torch.equal(edited, model(inputs))


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("by", ["smallest", "random"])
def test_full_pass_equals_cached_decode(name, by):
    model, ids = model_of(name), inputs_for(name)["input_ids"]
    with model.edited(NormGate(0.5, by=by, seed=3)):
        whole = model.hf(input_ids=ids, use_cache=False).logits
        out = model.hf(input_ids=ids[:, :4], use_cache=True)
        steps = [out.logits]
        for pos in range(4, 11):
            out = model.hf(input_ids=ids[:, pos : pos + 1], past_key_values=out.past_key_values)
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=2e-4)
    assert (whole - model(ids)).abs().max() > 1e-3


def test_random_heads_depend_on_the_seed_and_on_where_they_stand():
    query = torch.ones(3, 200, 8, 4)
    off = NormGate(0.25, by="random").switched_off(query, layer=2, start=0)
    assert (off.sum(-1) == 2).all()
    assert torch.equal(off[0], off[2])
    assert torch.equal(off[:, 50:90], NormGate(0.25, by="random").switched_off(query[:, :40], layer=2, start=50))
    assert not torch.equal(off, NormGate(0.25, by="random").switched_off(query, layer=3, start=0))
    assert not torch.equal(off, NormGate(0.25, by="random", seed=1).switched_off(query, layer=2, start=0))
    # each head a quarter of the time, within four standard deviations
    share = off[0].double().mean(0)
    assert (share - 0.25).abs().max() < 4 * (0.25 * 0.75 / 200) ** 0.5


def test_gates_of_other_kinds_compose():
    model, inputs = held("llama"), inputs_for("llama")
    with model.edited(NormGate(0.5), Gate("all", 2.0)):
        one = model.record(inputs, names_filter="z")[1]["blocks.0.attn.hook_z"]
    with model.edited(Gate("all", 2.0), NormGate(0.5)):
        other = model.record(inputs, names_filter="z")[1]["blocks.0.attn.hook_z"]
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"off": 1.0}, "off=1.0; expected a share of heads from 0 up to below 1"),
        ({"off": -0.1}, "off=-0.1"),
        ({"off": float("nan")}, "off=nan"),
        ({"by": "smalest"}, r"by='smalest' \(did you mean 'smallest'\?\)"),
    ],
)
def test_impossible_gates_are_refused_when_made(given, message):
    with pytest.raises(ValueError, match=message):
        NormGate(**given)


def test_a_share_of_no_head_is_refused():
    model = held("llama")
    with pytest.raises(ValueError, match=r"off=0.1\) rounds to no head of 4"), model.edited(NormGate(0.1)):
        model(inputs_for("llama"))
