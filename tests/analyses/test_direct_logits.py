"""Heads' direct logits against whole forwards, TransformerLens and their own sums."""

import numpy as np
import pytest
import torch

from end_tasks import own_difference, ragged_task, scrambled
from headlens.analyses.direct_logits import direct_logits
from headlens.analyses.direct_parts import direct_parts
from headlens.hooks.bridge import to_bridge
from headlens.hooks.model import wrap
from tiny_models import GENERATING, held, tiny


def frozen_norm_difference(hf, name, stream, at, answer, foil):
    """Logit difference of a stream [d_model] through a norm written out, with the statistics of `at` and no cap."""
    norm = {
        "gpt2": lambda: hf.transformer.ln_f,
        "opt": lambda: hf.model.decoder.final_layer_norm,
        "gpt_neox": lambda: hf.gpt_neox.final_layer_norm,
    }.get(name, lambda: hf.model.norm)()
    weight = 1 + norm.weight if name.startswith("gemma") else norm.weight
    if name in ("gpt2", "opt", "gpt_neox", "cohere"):
        stream, at = stream - stream.mean(), at - at.mean()
    eps = next(getattr(norm, key) for key in ("eps", "variance_epsilon") if hasattr(norm, key))
    unembedding = hf.get_output_embeddings().weight
    apart = (unembedding[answer] - unembedding[foil]) * (0.0625 if name == "cohere" else 1)
    return float((stream / at.square().mean().add(eps).sqrt() * weight * apart).sum())


def added_by(model, name, layer, z, part):
    """What a `part` of z [head, d_head] adds to the stream, Gemma's post-norm holding the statistics of the whole z."""
    project = model.layers[layer].output_projection
    added = project(part.reshape(1, -1))[0] - project(torch.zeros(1, part.numel()))[0]
    if not name.startswith("gemma"):
        return added
    norm, raw = model.hf.model.layers[layer].post_attention_layernorm, project(z.reshape(1, -1))[0]
    return added / raw.square().mean().add(norm.eps).sqrt() * (1 + norm.weight)


@pytest.mark.parametrize("name", GENERATING)
def test_every_head_equals_its_output_through_a_norm_written_out(name):
    model, task = scrambled(name), ragged_task().subset([0, 3])
    found = direct_logits(model, task)
    for prompt, end in enumerate(task.positions["END"]):
        tokens = task.clean_tokens[prompt : prompt + 1, : task.lengths[prompt]]
        with torch.no_grad():
            _, kept = model.record(tokens, names_filter=["z", "resid_post"])
            stream = kept["blocks.2.hook_resid_post"][0, end]
            for layer, head in np.ndindex(3, 4):
                z = kept[f"blocks.{layer}.attn.hook_z"][0, end]
                alone = torch.zeros_like(z)
                alone[head] = z[head]
                expected = frozen_norm_difference(
                    model.hf,
                    name,
                    added_by(model, name, layer, z, alone),
                    stream,
                    task.answers[prompt],
                    task.foils[prompt],
                )
                np.testing.assert_allclose(found.samples[prompt, layer, head], expected, rtol=0, atol=1e-5)
    assert np.abs(found.samples).max() > 0.01


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_head_equals_transformer_lens(name):
    """On tiny models as they are drawn: TransformerLens expects the final norm's weight folded, and it is 1."""
    model, task = held(name), ragged_task()
    found = direct_logits(model, task)
    bridge = to_bridge(model)
    for prompt, end in enumerate(task.positions["END"]):
        with torch.no_grad():
            _, cache = bridge.run_with_cache(task.clean_tokens[prompt : prompt + 1, : end + 1])
            heads = cache.stack_head_results(layer=-1, pos_slice=-1)
            theirs = cache.logit_attrs(heads[:, :, None], task.answers[[prompt]], task.foils[[prompt]], pos_slice=-1)
        np.testing.assert_allclose(found.samples[prompt].reshape(-1), theirs.reshape(-1).numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "opt", "qwen3", "gemma3", "cohere", "gpt_oss"])
def test_keys_sum_to_the_head(name):
    model, task = scrambled(name), ragged_task()
    heads = direct_logits(model, task)
    keys = direct_logits(model, task, axes=("layer", "head", "key"))
    np.testing.assert_allclose(np.nansum(keys.samples, -1), heads.samples, rtol=0, atol=1e-5)
    behind = np.arange(12) > task.positions["END"].numpy()[:, None]
    assert (np.isnan(keys.samples).all((1, 2)) == behind).all()
    assert keys.dims == ("layer", "head", "key") and keys.values.shape == (3, 4, 12)


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_a_key_is_its_value_times_its_attention_through_a_norm_written_out(name):
    model, task = scrambled(name), ragged_task().subset([0])
    layer, head, key, end = 1, 2, 9, 11
    found = direct_logits(model, task, axes=("layer", "head", "key")).samples[0, layer, head, key]
    with torch.no_grad():
        _, kept = model.record(task.clean_tokens, names_filter=["pattern", "v", "z", "resid_post"])
        fetched = torch.zeros(4, 8)
        fetched[head] = kept[f"blocks.{layer}.attn.hook_v"][0, key, head // 2]
        fetched[head] *= kept[f"blocks.{layer}.attn.hook_pattern"][0, head, end, key]
        added = added_by(model, name, layer, kept[f"blocks.{layer}.attn.hook_z"][0, end], fetched)
        stream = kept["blocks.2.hook_resid_post"][0, end]
        expected = frozen_norm_difference(model.hf, name, added, stream, task.answers[0], task.foils[0])
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_heads_and_bias_are_the_attention_part():
    model, task = scrambled("gpt2"), ragged_task()
    parts = direct_parts(model, task)
    attention = parts.samples[:, [1, 3, 5]]
    hf = model.hf
    left = attention - direct_logits(model, task).samples.sum(-1)
    for prompt, end in enumerate(task.positions["END"]):
        with torch.no_grad():
            _, kept = model.record(task.clean_tokens[prompt : prompt + 1], names_filter="resid_post")
            stream = kept["blocks.2.hook_resid_post"][0, end]
            of_bias = [
                frozen_norm_difference(
                    hf, "gpt2", block.attn.c_proj.bias, stream, task.answers[prompt], task.foils[prompt]
                )
                for block in hf.transformer.h
            ]
        np.testing.assert_allclose(left[prompt], of_bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axes", [("layer", "head"), ("layer", "head", "key")])
def test_little_memory_changes_nothing(axes):
    model, task = scrambled("gemma3"), ragged_task()
    whole, alone = direct_logits(model, task, axes=axes), direct_logits(model, task, axes=axes, memory=1)
    np.testing.assert_allclose(alone.samples, whole.samples, rtol=0, atol=1e-5)


def test_the_other_run_is_the_clean_run_of_the_swapped_task():
    task = ragged_task()
    swapped = type(task)(
        "swapped", task.corrupted_tokens, task.clean_tokens, task.lengths, task.answers, task.foils, task.positions
    )
    model = scrambled("llama")
    corrupted, clean = direct_logits(model, task, run="corrupted"), direct_logits(model, swapped)
    assert np.array_equal(corrupted.samples, clean.samples)
    assert np.abs(corrupted.samples - direct_logits(model, task).samples).max() > 0.01


def test_the_map_says_what_it_is():
    task = ragged_task()
    found = direct_logits(scrambled("gemma2"), task)
    assert found.dims == ("layer", "head") and found.units == "logits before the soft cap (answer minus foil)"
    assert (found.scale == 1).all() and found.clusters == task.templates
    np.testing.assert_allclose(found.values, found.samples.mean(0), rtol=0, atol=1e-6)
    assert found.provenance["task"] == "ragged" and found.provenance["run"] == "clean"


def test_a_post_norm_of_another_kind_is_refused_by_name():
    class Halved(torch.nn.Module):
        def forward(self, x):
            return x / 2

    hf = tiny("gemma2")
    hf.model.layers[1].post_attention_layernorm = Halved()
    with pytest.raises(ValueError, match="Halved is neither an RMSNorm nor a LayerNorm"):
        direct_logits(wrap(hf), ragged_task())


def test_attention_that_adds_more_than_its_heads_is_refused():
    hf = tiny("llama")
    hf.model.layers[1].self_attn.o_proj.register_forward_hook(lambda module, args, output: output * 1.2)
    with pytest.raises(ValueError, match="LlamaAttention does more with its heads' outputs"):
        direct_logits(wrap(hf), ragged_task())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"axes": ("layer",)}, "Axes 'layer' are not available; give layer,head or layer,head,key"),
        ({"run": "claen"}, "did you mean 'clean'"),
        ({"memory": "much"}, "'much' is not a size"),
    ],
)
def test_a_wrong_argument_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        direct_logits(scrambled("llama"), ragged_task(), **wrong)


def test_a_task_of_another_vocabulary_is_refused():
    task = ragged_task()
    foreign = type(task)("big", task.clean_tokens, task.corrupted_tokens, task.lengths, task.answers + 500, task.foils)
    with pytest.raises(ValueError, match="vocabulary is 0 to 119"):
        direct_logits(scrambled("llama"), foreign)


@pytest.mark.real
def test_heads_of_the_real_model_and_the_rest_sum_to_its_logit_difference(smollm2):
    from headlens.analyses.tasks import ioi

    task = ioi(smollm2, n=4, seed=2)
    heads, parts = direct_logits(smollm2, task), direct_parts(smollm2, task)
    rest = [index for index, part in enumerate(parts.parts) if part.kind != "attention"]
    own = own_difference(smollm2, task)
    summed = heads.samples.sum((1, 2)) + parts.samples[:, rest].sum(1)
    np.testing.assert_allclose(summed, own, rtol=0, atol=1e-4 * np.abs(own).max())
