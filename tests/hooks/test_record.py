"""Recorded activations against transformers' eager attention and TransformerLens, on every architecture."""

import pytest
import torch

from headlens.hooks.record import at_positions, mean_over, parse_bytes
from headlens.hooks.sites import SITE_AXES
from tiny_models import GENERATING, HELD, held, inputs_for, tiny

# (tower, attribute of transformers' output) of each attention stack
ATTENTIONS = {
    "t5": [("main", "decoder_attentions"), ("encoder", "encoder_attentions"), ("cross", "cross_attentions")],
    "llava": [("main", "attentions")],
}
HIDDEN = {"t5": [("main", "decoder_hidden_states"), ("encoder", "encoder_hidden_states")]}


def eager(name):
    """The same weights in transformers' own eager attention."""
    model = tiny(name)
    model.set_attn_implementation("eager")
    return model


def named(tower, layer, site):
    prefix = "" if tower == "main" else f"{tower}."
    inside = "" if site.startswith("resid") else "attn."
    return f"{prefix}blocks.{layer}.{inside}hook_{site}"


@pytest.mark.parametrize("name", HELD)
def test_patterns_equal_eager_attention(name):
    inputs = inputs_for(name)
    with torch.no_grad():
        expected = eager(name)(**inputs, output_attentions=True)
        _, cache = held(name).record(inputs, names_filter=lambda site: site.endswith("hook_pattern"))
    for tower, attribute in ATTENTIONS.get(name, [("main", "attentions")]):
        for layer, pattern in enumerate(expected[attribute]):
            torch.testing.assert_close(cache[named(tower, layer, "pattern")], pattern, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", HELD)
def test_residual_stream_equals_hidden_states(name):
    inputs = inputs_for(name)
    with torch.no_grad():
        # transformers' own default, but for Gemma-2, whose soft cap it drops in some versions
        expected = (eager if name == "gemma2" else tiny)(name)(**inputs, output_hidden_states=True)
        _, cache = held(name).record(inputs, names_filter=lambda site: "hook_resid_p" in site)
    for tower, attribute in HIDDEN.get(name, [("main", "hidden_states")]):
        states = expected[attribute]
        for layer in range(3):
            torch.testing.assert_close(cache[named(tower, layer, "resid_pre")], states[layer], rtol=0, atol=2e-5)
        # the last hidden state of most models is already normed, so the one before it is the last to compare
        torch.testing.assert_close(cache[named(tower, 1, "resid_post")], states[2], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", HELD)
def test_sites_of_a_layer_add_up(name):
    """z through W_O is attn_out, and the residual stream is the sum of its parts where the block is a plain sum."""
    model = held(name)
    with torch.no_grad():
        _, cache = model.record(inputs_for(name), names_filter=lambda site: ".1." in site and site.startswith("blocks"))
    layer = model.layers[1]
    result, z = cache["blocks.1.attn.hook_result"], cache["blocks.1.attn.hook_z"]
    torch.testing.assert_close(
        torch.einsum("bphd,hdm->bphm", z, layer.output_weights(model.n_heads)), result, rtol=0, atol=1e-5
    )
    pattern, v = cache["blocks.1.attn.hook_pattern"], cache["blocks.1.attn.hook_v"]
    grouped = v.repeat_interleave(model.n_heads // model.n_kv_heads, 2)
    torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, grouped), z, rtol=0, atol=1e-5)
    if layer.attention_addition is layer.output_projection:
        bias = layer.output_projection.bias
        total = result.sum(2) if bias is None else result.sum(2) + bias
        torch.testing.assert_close(total, cache["blocks.1.hook_attn_out"], rtol=0, atol=1e-4)
    middle = cache.get("blocks.1.hook_resid_mid")
    if middle is not None:
        torch.testing.assert_close(
            cache["blocks.1.hook_resid_pre"] + cache["blocks.1.hook_attn_out"], middle, rtol=0, atol=1e-5
        )
    if name not in (
        "bert",
        "t5",
    ):  # BERT norms the sum; T5's cross-attention stands between the two additions
        parts = cache["blocks.1.hook_resid_pre"] + cache["blocks.1.hook_attn_out"] + cache["blocks.1.hook_mlp_out"]
        torch.testing.assert_close(parts, cache["blocks.1.hook_resid_post"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", HELD)
def test_recording_leaves_the_output_as_it_was(name):
    inputs, model = inputs_for(name), held(name)
    with torch.no_grad():
        plain = model(inputs)
        watched, cache = model.record(inputs)
    torch.testing.assert_close(watched, plain, rtol=0, atol=3e-5)
    for full_name, value in cache.items():
        assert value.ndim == len(SITE_AXES[full_name.split("hook_")[1]]), full_name


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3", "phi3", "opt"])
def test_values_equal_transformer_lens(name):
    from headlens.hooks.bridge import to_bridge

    model, ids = held(name), inputs_for(name)["input_ids"]
    with torch.no_grad():
        _, ours = model.record(ids)
        _, theirs = to_bridge(model).run_with_cache(ids)
    shared = set(ours) & set(theirs.cache_dict)
    if name == "opt":  # TransformerLens fires OPT's hook_attn_scores on the pattern
        shared -= {f"blocks.{layer}.attn.hook_attn_scores" for layer in range(3)}
    assert len(shared) >= 3 * 6
    for full_name in shared:
        visible = torch.isfinite(ours[full_name])
        torch.testing.assert_close(
            ours[full_name][visible], theirs[full_name][visible], rtol=0, atol=2e-5, msg=full_name
        )


@pytest.mark.parametrize("name", GENERATING)
def test_scores_of_hidden_keys_are_minus_infinity(name):
    with torch.no_grad():
        _, cache = held(name).record(inputs_for(name)["input_ids"], names_filter=["attn_scores", "pattern"])
    scores, pattern = cache["blocks.0.attn.hook_attn_scores"], cache["blocks.0.attn.hook_pattern"]
    assert torch.isneginf(scores[..., torch.ones(11, 11, dtype=torch.bool).triu(1)]).all()
    assert ((pattern == 0) | ~torch.isneginf(scores)).all()


def test_the_cache_is_transformer_lens_cache():
    model = held("llama")
    logits, cache = model.run_with_cache(inputs_for("llama")["input_ids"], names_filter=["pattern", "z"])
    assert type(cache).__name__ == "ActivationCache"
    assert cache["pattern", 1].shape == (2, 4, 11, 11)
    assert cache["z", -1].shape == (2, 11, 4, 8)
    assert logits.shape == (2, 11, 120)


def test_everything_but_result_is_kept_unasked():
    _, cache = held("llama").record(inputs_for("llama"))
    assert {full_name.split("hook_")[1] for full_name in cache} == set(SITE_AXES) - {"result"}


def test_reductions_at_capture():
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    _, whole = model.record(ids, names_filter=["pattern", "z"])
    _, small = model.record(
        ids,
        names_filter=["pattern", "z"],
        reduce={"pattern": at_positions([10, 4]), "z": mean_over("batch", "pos")},
    )
    pattern = whole["blocks.2.attn.hook_pattern"]
    torch.testing.assert_close(
        small["blocks.2.attn.hook_pattern"],
        torch.stack([pattern[0, :, 10], pattern[1, :, 4]]),
        rtol=0,
        atol=0,
    )
    torch.testing.assert_close(small["blocks.2.attn.hook_z"], whole["blocks.2.attn.hook_z"].mean((0, 1)))
    with pytest.raises(ValueError, match="has no axis 'query'"):
        model.record(ids, names_filter="z", reduce={"z": mean_over("query")})


def test_the_byte_budget_holds():
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    with pytest.raises(ValueError, match=r"passed its budget of 1,000 bytes at blocks\.0"):
        model.record(ids, budget=1000)
    _, cache = model.record(ids, names_filter="z", dtype=torch.float16, budget="1MiB")
    assert cache["blocks.0.attn.hook_z"].dtype == torch.float16
    assert parse_bytes("1.5KiB") == 1536
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes("lots")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("patern", "did you mean 'pattern'"),
        ("blocks.7.attn.hook_z", "layers 0..2"),
        ("ear.blocks.0.attn.hook_z", "main"),
    ],
)
def test_unknown_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        held("llama").record(inputs_for("llama"), names_filter=names)


def test_a_parallel_block_has_no_resid_mid():
    with pytest.raises(ValueError, match=r"blocks\.0\.hook_resid_mid does not exist in GPTNeoXLayer"):
        held("gpt_neox").record(inputs_for("gpt_neox"), names_filter="resid_mid")
