"""The float32 copy of a model in half precision."""

import pytest
import torch
from accelerate import cpu_offload

from headlens.hooks import float32_twin as twins
from headlens.hooks.float32_twin import float32_twin
from headlens.hooks.model import wrap
from tiny_models import GENERATING, inputs_for, tiny


@pytest.mark.parametrize("name", GENERATING)
def test_a_twin_has_the_same_weights_and_computes_in_float32(name):
    model = wrap(tiny(name).bfloat16(), name="small")
    before = model.weights_hash
    twin = float32_twin(model)
    expected = tiny(name).bfloat16().float()
    with torch.no_grad():
        torch.testing.assert_close(twin(inputs_for(name)), expected(**inputs_for(name)).logits, rtol=0, atol=2e-5)
    assert twin.dtype == torch.float32 and model.dtype == torch.bfloat16 and model.weights_hash == before
    assert not {p.data_ptr() for p in twin.hf.parameters()} & {p.data_ptr() for p in model.hf.parameters()}


def test_tied_weights_stay_tied_and_buffers_keep_what_they_count():
    hf = tiny("gpt2").half()
    hf.register_buffer("count", torch.tensor([3]))
    hf.register_buffer("table", torch.ones(2, dtype=torch.float16))
    twin = float32_twin(wrap(hf)).hf
    assert twin.lm_head.weight is twin.transformer.wte.weight
    assert twin.count.dtype == torch.int64 and twin.table.dtype == torch.float32
    assert twin.count is not hf.count


def test_a_twin_without_room_on_the_gpu_or_at_all(monkeypatch):
    model = wrap(tiny("llama").bfloat16())
    needed = 4 * sum(p.numel() for p in model.hf.parameters())
    places = []
    monkeypatch.setattr(twins, "_wide", lambda tensor, device: places.append(device) or tensor.float())
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))
    for free, place in [(needed / twins._SHARE + 1, "cuda:0"), (needed / twins._SHARE - 1, "cpu")]:
        monkeypatch.setattr(twins, "free_memory", lambda model, free=free: int(free))
        places.clear()
        float32_twin(model)
        assert {str(each) for each in places} == {place}
    monkeypatch.setattr(twins, "_free_host_memory", lambda: needed)
    with pytest.raises(ValueError, match="its copy takes 0.0 GiB, more than is free"):
        float32_twin(model)


def test_the_machine_says_how_much_memory_it_has():
    free = twins._free_host_memory()
    assert free is None or 2**20 < free < 2**50


def test_a_model_that_is_placed_or_quantised_has_no_twin():
    placed, quantised = tiny("llama").bfloat16(), tiny("llama").bfloat16()
    cpu_offload(placed, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="spread over devices"):
        float32_twin(wrap(placed))
    quantised.is_quantized = True
    with pytest.raises(ValueError, match="quantised"):
        float32_twin(wrap(quantised))


def test_a_forward_that_was_replaced_may_know_the_models_own_weights():
    hf = tiny("llama").bfloat16()
    model, norm, forward = wrap(hf), hf.model.norm, hf.model.norm.forward
    norm.forward = lambda hidden: forward(hidden)
    with pytest.raises(ValueError, match="the forward of a LlamaRMSNorm was replaced"):
        float32_twin(model)
    del norm.forward
    assert float32_twin(model).dtype == torch.float32
