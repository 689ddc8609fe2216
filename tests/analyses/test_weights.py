"""Weight views against dense matrices, and against TransformerLens at the same weights."""

import numpy as np
import pytest
import torch

from end_tasks import scrambled
from headlens.analyses.weights import composition, copying, spectrum
from headlens.hooks.bridge import to_bridge
from headlens.hooks.read_weights import read_weights
from planted_circuit import planted_model
from tiny_models import held


def dense(name, layer):
    """W_Q, W_K, W_V per query head [head, d_model, d_head] and W_O of a llama or gpt2, norm weights folded in."""
    model = scrambled(name)
    hf, heads, size = model.hf, model.n_heads, model.d_head
    with torch.no_grad():
        if name == "llama":
            block = hf.model.layers[layer]
            own = block.self_attn
            gain = block.input_layernorm.weight[:, None]
            found = [(gain * own.get_submodule(f"{part}_proj").weight.T).unflatten(1, (-1, size)) for part in "qkv"]
            found = [each.repeat_interleave(heads // each.shape[1], 1).transpose(0, 1).double() for each in found]
            out = own.o_proj.weight.T
        else:
            block = hf.transformer.h[layer]
            weights = block.ln_1.weight[:, None] * block.attn.c_attn.weight
            weights = weights - weights.mean(0)
            found = [each.unflatten(1, (heads, size)).transpose(0, 1).double() for each in weights.chunk(3, 1)]
            out = block.attn.c_proj.weight
        return *found, out.unflatten(0, (heads, size)).double()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weights_are_the_models_own(name):
    for layer, weights in enumerate(read_weights(scrambled(name))):
        for part, expected in zip("qkvo", dense(name, layer), strict=True):
            for head in range(len(expected)):
                assert torch.allclose(weights.of_head(part, head).double(), expected[head], atol=1e-5), (layer, part)


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2", "opt", "phi3", "cohere", "gpt_oss", "mistral"])
def test_values_of_every_architecture_explain_its_heads(name):
    """z at position 0, where a head reads nothing but itself, is the value."""
    model = scrambled(name)
    tokens = torch.tensor([[5], [17], [60]])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=["resid_pre", "v"])
    ((first, *_), stream) = (read_weights(model), cache["resid_pre", 0][:, 0])
    # biases cancel between prompts; the norm's scale is that of an RMSNorm or LayerNorm
    for centred in (True, False):
        rows = stream - stream.mean(1, keepdim=True) if centred else stream
        rows = rows / rows.square().mean(1, keepdim=True).sqrt()
        expected = torch.einsum("nd,hde->nhe", rows, first.v)
        values = cache["v", 0][:, 0]
        if torch.allclose(values - values[:1], expected - expected[:1], atol=1e-3 * float(values.std())):
            return
    raise AssertionError("the values are no function of the weights")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_spectra_are_those_of_the_dense_matrices(name, circuit):
    found = spectrum(scrambled(name), circuit)
    for layer in range(found.values.shape[0]):
        query, key, value, out = dense(name, layer)
        whole = query @ key.mT if circuit == "QK" else value @ out
        expected = torch.linalg.svdvals(whole)[:, : query.shape[2]]
        assert np.allclose(found.values[layer], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_copying_is_the_dense_eigenvalues(name):
    model = scrambled(name)
    found, hf = copying(model).values, model.hf
    final = hf.model.norm if name == "llama" else hf.transformer.ln_f
    with torch.no_grad():
        embedding, unembedding = hf.get_input_embeddings().weight.double(), hf.get_output_embeddings().weight.double()
        for layer in range(model.n_layers):
            _, _, value, out = dense(name, layer)
            for head in range(model.n_heads):
                whole = embedding @ value[head] @ out[head] @ (unembedding * final.weight.double()).T
                values = torch.linalg.eigvals(whole)
                assert found[layer, head] == pytest.approx(float(values.real.sum() / values.abs().sum()), abs=2e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_composition_is_the_dense_product(name, component):
    model = scrambled(name)
    found = composition(model, "L1H2", component)
    assert np.isnan(found.values[1:]).all()
    query, key, value, out = (each[2] for each in dense(name, 1))
    reads = {"q": query @ key.T, "k": key @ query.T, "v": value @ out}[component]
    _, _, values, outs = dense(name, 0)
    for head in range(model.n_heads):
        sender = values[head] @ outs[head]
        expected = (sender @ reads).norm() / (sender.norm() * reads.norm())
        assert found.values[0, head] == pytest.approx(float(expected), rel=1e-4)


def test_composition_is_transformer_lenss():
    # norm weights of 1: theirs folds nothing in
    model = held("llama")
    for mode in "QKV":
        theirs = to_bridge(model).all_composition_scores(mode).scores[0, :, 1]
        for head in range(model.n_heads):
            found = composition(model, f"L1H{head}", mode.lower())
            assert np.allclose(found.values[0], theirs[:, head].detach(), rtol=1e-3), mode


def test_the_planted_circuit_is_in_the_weights():
    model = planted_model()
    before = composition(model, "L1H1", "k").values[0]
    assert before[0] > 3 * before[1] and before[2] == 0
    # the induction head copies, the others write where no logit is read
    assert copying(model).values[1, 1] == pytest.approx(1, abs=0.05)
    assert abs(copying(model).values[0]).max() < 0.05


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spectrum(held("llama"), "QQ"), "QK, OV"),
        (lambda: spectrum(held("qwen3"), "QK"), "norms its queries or keys"),
        (lambda: composition(held("qwen3"), "L1H0", "q"), "norms its queries or keys"),
        (lambda: composition(held("llama"), "L9H0", "q"), "L9H0 does not exist"),
        (lambda: composition(held("llama"), "L1H0", "z"), "expected q, k or v"),
    ],
    ids=["circuit", "normed", "normed-composition", "head", "component"],
)
def test_what_has_no_answer_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_values_are_there_where_queries_are_normed():
    assert np.isfinite(spectrum(held("qwen3"), "OV").values).all()
    assert np.isfinite(composition(held("qwen3"), "L1H0", "v").values[0]).all()
