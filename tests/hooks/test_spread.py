"""Models that accelerate has placed: on two devices that do not mix, on the CPU, or on disk between runs."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn

import headlens
from end_tasks import scrambled, scrambled_weights
from headlens.analyses.patching import patch_sweep
from headlens.hooks.bridge import from_bridge, to_bridge
from headlens.hooks.fingerprint import weights_hash
from headlens.hooks.model import wrap
from headlens.hooks.readout import find_readout
from headlens.hooks.spread import device_of, input_device, is_placed, meet_inputs, values_of
from tiny_models import held, inputs_for, tiny
from tiny_tasks import task_of

# gemma2's unembedding is its embedding
NAMES = ("llama", "gpt2", "gemma2")


def middle_on_disk(hf, folder):
    """The second layer and the unembedding are on disk, all else is there."""
    blocks = "transformer.h" if hasattr(hf, "transformer") else "model.layers"
    inner = blocks.partition(".")[0]
    children = {f"{inner}.{name}" for name, _ in hf.get_submodule(inner).named_children()} - {blocks}
    places = dict.fromkeys(children, "cpu") | {f"{blocks}.{at}": "disk" if at == 1 else "cpu" for at in range(3)}
    dispatch_model(hf, {**places, "lm_head": "disk"}, main_device="cpu", offload_dir=folder)


OFFLOADED = {
    "on the CPU": lambda hf, folder: cpu_offload(hf, execution_device=torch.device("cpu")),
    "on disk": lambda hf, folder: disk_offload(hf, folder, execution_device=torch.device("cpu")),
    "in part": middle_on_disk,
    "nowhere else": lambda hf, folder: dispatch_model(hf, {"": "cpu"}),
}


@pytest.mark.parametrize("how", OFFLOADED)
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_reads_weights_that_are_elsewhere_between_runs(name, how, tmp_path):
    hf = tiny(name)
    OFFLOADED[how](hf, tmp_path)
    model, whole = headlens.load(hf), held(name)
    assert is_placed(hf) is (how != "nowhere else") and model.device == torch.device("cpu")
    for site in ("z", "resid_pre"):
        found, expected = (patch_sweep(each, task_of(), site=site, progress=False) for each in (model, whole))
        assert found.provenance["method"] == "replay"
        np.testing.assert_allclose(found.samples, expected.samples, rtol=0, atol=1e-5)
    assert model.weights_hash == whole.weights_hash
    assert torch.equal(model.layers[1].output_weights(4), whole.layers[1].output_weights(4))


@pytest.mark.parametrize("how", OFFLOADED)
@pytest.mark.parametrize("name", NAMES)
def test_a_readout_reads_weights_that_are_elsewhere_between_runs(name, how, tmp_path):
    hf = scrambled_weights(name)
    OFFLOADED[how](hf, tmp_path)
    found, expected = (find_readout(model) for model in (wrap(hf), scrambled(name)))
    resid, (answers, foils) = (
        torch.randn(5, 32, generator=torch.Generator().manual_seed(3)),
        torch.arange(10).view(2, 5),
    )
    for read in (
        lambda readout: readout.logits(resid),
        lambda readout: readout.logits_of(resid, torch.stack([answers, foils], 1)),
        lambda readout: readout.direction(resid, answers, foils),
        lambda readout: readout.difference(resid, answers, foils),
        lambda readout: torch.stack(readout.biases(answers, foils)),
    ):
        torch.testing.assert_close(read(found), read(expected), rtol=0, atol=1e-5)
    # what was copied is accelerate's no more, and what it was copied from still is
    assert not is_placed(found.frozen_norm.module) and is_placed(hf) is (how != "nowhere else")


@pytest.mark.parametrize("how", ["on the CPU", "in part"])
def test_no_bridge_goes_to_or_from_a_placed_model(how, tmp_path):
    model, bridge = wrap(tiny("gpt2"), name="small"), to_bridge(wrap(tiny("gpt2")))
    OFFLOADED[how](model.hf, tmp_path)
    with pytest.raises(ValueError, match="'small' is placed by a device_map.*load it onto one device"):
        model.to_bridge()
    add_hook_to_module(bridge.original_model, AlignDevicesHook(execution_device="cpu"))
    with pytest.raises(ValueError, match="over a GPT2LMHeadModel that a device_map places"):
        from_bridge(bridge)


def test_weights_that_are_nowhere_are_refused_in_words():
    with torch.device("meta"):
        empty = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="The bias of a Linear is on the meta device, and nothing says where"):
        values_of(empty, "bias")
    with pytest.raises(ValueError, match="load the model with its weights"):
        weights_hash(nn.Sequential(nn.Linear(2, 2), empty))


def test_wrapping_twice_watches_once(tmp_path):
    hf = tiny("llama")
    middle_on_disk(hf, tmp_path)
    wrap(hf)
    hooks = sum(len(module._forward_pre_hooks) for module in hf.modules())
    meet_inputs(hf)
    assert hooks > 0 and sum(len(module._forward_pre_hooks) for module in hf.modules()) == hooks
    with torch.no_grad():
        logits = hf(**inputs_for("llama")).logits
        torch.testing.assert_close(logits, tiny("llama")(**inputs_for("llama")).logits, rtol=0, atol=1e-5)


def test_models_that_nobody_placed_are_left_alone():
    hf = tiny("gpt2")
    wrap(hf)
    assert not is_placed(hf) and not any(module._forward_pre_hooks for module in hf.modules())
    assert device_of(hf) == input_device(hf) == torch.device("cpu")


APART = """
import sys
import far_devices
import numpy as np
import torch
from headlens.analyses.patching import patch_sweep
from headlens.hooks.model import wrap
from headlens.hooks.readout import find_readout
from tiny_models import held, tiny
from tiny_tasks import task_of

far_devices.register()
hf, near = tiny("llama"), held("llama")
layers = {f"model.layers.{layer}": f"far:{min(layer, 1)}" for layer in range(3)}
ends = {"model.norm": "far:1", "lm_head": sys.argv[1]}
far_devices.place(hf, {"model.embed_tokens": "far:0", "model.rotary_emb": "far:0", **layers, **ends})
task = task_of()
with far_devices.far_devices():
    far = wrap(hf)
    assert str(far.device) == "far:0"
    for wanted in (
        {}, {"site": "v"}, {"site": "pattern"}, {"site": "resid_pre", "axes": ["layer", "pos"]}, {"site": "resid_mid"},
        {"site": "mlp_out"}, {"heads": [["L0H0", "L1H2", "L2H1"], ["L1H0"]]}, {"source": "mean"}, {"metric": "kl"},
        {"source": "mean_positional"},
        # layer 0 has the same value behind the differing token, layer 2 another
        {"site": "v", "heads": [["L0H0", "L2H1"]], "axes": ["heads", "pos"]},
    ):
        found, expected = (patch_sweep(model, task, progress=False, **wanted) for model in (far, near))
        assert found.provenance["method"] == "replay", (wanted, found.provenance["method"])
        np.testing.assert_allclose(found.samples, expected.samples, rtol=0, atol=1e-5)
        assert np.abs(expected.samples).max() > 0.1
    answers, foils = torch.arange(10).view(2, 5)
    apart, whole = find_readout(far), find_readout(near)
    for where in ("far:0", "far:1"):
        resid = torch.randn(5, 32)
        for read in (
            lambda of, *given: of.logits(given[0]),
            lambda of, *given: of.logits_of(given[0], torch.stack(given[1:], 1)),
            lambda of, *given: of.direction(*given),
            lambda of, *given: of.difference(*given),
            lambda of, *given: torch.stack(of.biases(*given[1:])),
        ):
            got = read(apart, *(each.to(where) for each in (resid, answers, foils)))
            assert str(got.device) == where
            torch.testing.assert_close(got.to("cpu"), read(whole, resid, answers, foils), rtol=0, atol=1e-5)
"""


@pytest.mark.parametrize("unembedding", ["far:0", "far:1"])
def test_a_model_on_two_devices_is_swept_as_on_one(unembedding, request, tmp_path):
    """In a process of its own: the devices are registered with torch for good."""
    support = request.path.parents[1] / "support"
    script = f"import sys; sys.path.insert(0, {str(support)!r})\n{APART}"
    done = subprocess.run(
        [sys.executable, "-c", script, unembedding], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
