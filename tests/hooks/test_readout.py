"""The readout against each model's own logits, and autograd."""

import pytest
import torch
from torch import nn

from end_tasks import scrambled, scrambled_weights
from headlens.hooks.model import wrap
from headlens.hooks.readout import find_readout
from tiny_models import GENERATING, held, inputs_for, tiny

ALL = (*GENERATING, "llava")


def last_stream(model, name):
    """Logits [row, vocabulary] and the stream behind the last block [row, d_model]."""
    with torch.no_grad():
        logits, kept = model.record(inputs_for(name), names_filter="blocks.2.hook_resid_post")
    return logits.flatten(0, 1), kept["blocks.2.hook_resid_post"].flatten(0, 1)


@pytest.mark.parametrize("name", ALL)
def test_the_last_stream_reads_out_as_the_models_logits(name):
    logits, stream = last_stream(scrambled(name), name)
    readout, some = find_readout(scrambled(name)), torch.randint(120, (len(stream), 3))
    torch.testing.assert_close(readout.logits(stream), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(readout.logits_of(stream, some), logits.gather(1, some), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_the_model_does_to_its_logits_is_seen(name):
    readout = find_readout(scrambled(name))
    assert readout.scale == pytest.approx(0.0625 if name == "cohere" else 1, rel=1e-6)
    assert readout.cap == (30 if name == "gemma2" else None)


@pytest.mark.parametrize("name", ALL)
def test_stream_and_biases_make_the_logit_difference(name):
    model = scrambled(name)
    logits, stream = last_stream(model, name)
    if name == "gemma2":  # undo the cap of 30
        logits = 30 * torch.atanh(logits.double() / 30).float()
    answers, foils = (torch.arange(len(stream)) % 70 + shift for shift in (4, 9))
    rows, readout = torch.arange(len(stream)), find_readout(model)
    expected = logits[rows, answers] - logits[rows, foils]
    said = (stream * readout.direction(stream, answers, foils)).sum(-1) + sum(readout.biases(answers, foils))
    for found in (said, readout.difference(stream, answers, foils)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_biases_are_told_apart():
    """Phi-3 with a bias on its unembedding, and none on its norm."""
    hf = tiny("phi3")
    hf.lm_head.bias = nn.Parameter(torch.arange(120.0))
    readout = find_readout(wrap(hf))
    of_norm, of_unembedding = readout.biases(torch.tensor([7, 9]), torch.tensor([5, 90]))
    assert of_norm.abs().max() < 1e-5 and of_unembedding.tolist() == [2, -81]
    stream, some = torch.randn(2, 32), torch.tensor([[7, 9], [5, 90]])
    torch.testing.assert_close(readout.logits_of(stream, some), readout.logits(stream).gather(1, some))


@pytest.mark.parametrize("name", ["gemma2", "cohere", "gpt2"])
def test_half_precision_is_seen_through(name):
    hf = scrambled_weights(name).to(torch.bfloat16)
    readout = find_readout(wrap(hf))
    assert (readout.scale, readout.cap) == ({"cohere": 0.0625}.get(name, 1), {"gemma2": 30}.get(name))


@pytest.mark.parametrize("name", ["bert", "t5", "vit"])
def test_what_is_not_a_causal_language_model_is_refused(name):
    with pytest.raises(ValueError, match="is not a causal language model"):
        find_readout(held(name))


def test_a_norm_of_another_kind_is_refused_by_name():
    class CubeNorm(nn.Module):
        def forward(self, x):
            return x**3

    hf = tiny("llama")
    hf.model.norm = CubeNorm()
    with pytest.raises(ValueError, match="CubeNorm is neither an RMSNorm nor a LayerNorm"):
        find_readout(wrap(hf))


def test_more_than_a_norm_before_the_unembedding_is_refused():
    hf = tiny("llama")
    hf.model.norm = nn.Sequential(hf.model.norm, nn.Linear(32, 32))
    hf.lm_head = nn.Sequential(nn.Linear(32, 32), hf.lm_head)
    hf.get_output_embeddings = lambda: hf.lm_head[1]
    with pytest.raises(ValueError, match="LlamaForCausalLM does more than a norm between its last block"):
        find_readout(wrap(hf))


def test_logits_changed_in_another_way_are_refused():
    hf = tiny("llama")
    hf.lm_head.register_forward_hook(lambda module, args, output: output.sigmoid())
    with pytest.raises(ValueError, match="something else than a scale and a soft cap"):
        find_readout(wrap(hf))
