"""Runs leave the model as they found it, whatever happens inside, and never see each other."""

import threading

import pytest
import torch

from headlens.hooks.edits import Call, Gate
from headlens.hooks.model import wrap
from tiny_models import HELD, held, inputs_for, tiny


def traces_on(model):
    """Everything a run could leave behind on a Hugging Face model."""
    left = []
    for name, module in model.hf.named_modules():
        left += [f"{name}.{key}" for key in module.__dict__ if key.startswith("_headlens") or key == "forward"]
        left += [f"{name}: hook" for hooks in (module._forward_hooks, module._forward_pre_hooks) if hooks]
    return left


@pytest.mark.parametrize("name", HELD)
def test_a_run_leaves_no_trace(name):
    hf, inputs = tiny(name), inputs_for(name)
    implementation = hf.config._attn_implementation
    before = {key: value.clone() for key, value in hf.state_dict().items()}
    model = wrap(hf)
    with torch.no_grad():
        # the first forward of some models installs transformers' own hooks, which are not ours to count
        plain = hf(**inputs).to_tuple()[0]
        hooks_before = traces_on(model)
        with model.edited(Gate("L1H1", 0.0)):
            model.record(inputs)
        after = hf(**inputs).to_tuple()[0]
    assert torch.equal(plain, after)
    assert traces_on(model) == hooks_before
    assert hf.config._attn_implementation == implementation
    assert all(torch.equal(value, before[key]) for key, value in hf.state_dict().items())


def test_an_exception_leaves_no_trace():
    model = held("llama")
    hooks_before = traces_on(model)
    with pytest.raises(ZeroDivisionError), model.edited(Call("blocks.1.attn.hook_z", lambda t, hook: 1 / 0)):
        model(inputs_for("llama"))
    assert traces_on(model) == hooks_before
    assert model.hf.config._attn_implementation == "sdpa"


def test_training_mode_comes_back():
    hf = tiny("gpt2")
    hf.train()
    hf.transformer.h[1].eval()
    modes = [module.training for module in hf.modules()]
    model = wrap(hf)
    with torch.no_grad():
        first, second = (model.record(inputs_for("gpt2"), names_filter="z")[0] for _ in range(2))
    assert torch.equal(first, second)
    assert [module.training for module in hf.modules()] == modes


def test_gradients_flow_through_edits():
    model, inputs = wrap(tiny("llama")), inputs_for("llama")
    scale = torch.ones((), requires_grad=True)
    with model.edited(Call("blocks.1.attn.hook_z", lambda t, hook: t * scale)):
        model(inputs).square().sum().backward()
    assert scale.grad is not None and float(scale.grad.abs()) > 0


def test_two_models_in_two_threads_never_see_each_others_edits():
    models = [wrap(tiny("llama", seed)) for seed in (0, 1)]
    inputs = inputs_for("llama")
    with torch.no_grad():
        plain = [model(inputs) for model in models]
        expected = []
        for model, gamma in zip(models, (0.0, 3.0), strict=True):
            with model.edited(Gate("all", gamma)):
                expected.append(model(inputs))
    wrong, barrier = [], threading.Barrier(3)

    def work(model, gamma, want):
        barrier.wait()
        for _ in range(20):
            with torch.no_grad(), model.edited(Gate("all", gamma)):
                if not torch.equal(model(inputs), want):
                    wrong.append(gamma)

    def work_plain():
        barrier.wait()
        for _ in range(20):
            with torch.no_grad():
                # the first model is also run plainly; its lock makes this wait for the edited runs
                if not torch.equal(models[0].record(inputs, names_filter="resid_pre")[0], plain[0]):
                    wrong.append("plain")

    threads = [
        threading.Thread(target=work, args=(models[0], 0.0, expected[0])),
        threading.Thread(target=work, args=(models[1], 3.0, expected[1])),
        threading.Thread(target=work_plain),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_configuration_object_serves_two_models():
    one = tiny("llama")
    other = type(one)(one.config).eval()
    inputs = inputs_for("llama")
    with torch.no_grad():
        plain = other(**inputs).logits
        with wrap(one).edited(Gate("all", 0.0)):
            one(**inputs)
            inside = other(**inputs).logits
    torch.testing.assert_close(inside, plain, rtol=0, atol=1e-5)
