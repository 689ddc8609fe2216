"""Vision-language models: every tower is found, and watching it changes nothing, to the last bit of eager attention."""

import pytest
import torch

from headlens.hooks import probe
from headlens.hooks.edits import Call
from headlens.hooks.groups import Image, TokenIds
from headlens.hooks.inputs import known_words, prepare
from headlens.hooks.model import wrap
from headlens.hooks.token_kinds import Resolving
from plain_attention import modules_of
from tiny_vlms import IMAGE_TOKEN, SEVERAL_PICTURES, VLMS, held_vlm, tiny_vlm
from vlm_inputs import QWEN, inputs_for_vlm

# pictures in each prompt of a batch
BATCHES = {"one": (1,), "two": (1, 1), "several": (2,), "ragged": (2, 1), "text": (0,)}
CASES = [(name, kind) for name in VLMS for kind in BATCHES if name in SEVERAL_PICTURES or kind in ("one", "two")]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def eager(name):
    model = tiny_vlm(name)
    model.set_attn_implementation("eager")
    return model


def hooks_of(hf):
    return [(*module._forward_pre_hooks.values(), *module._forward_hooks.values()) for module in hf.modules()]


def padded_alike(inputs):
    """A plain forward of transformers counts padding; positions from the first token, as headlens has them."""
    mask = inputs["attention_mask"]
    if bool(mask.all()) or "image_grid_thw" in inputs or "qformer_input_ids" in inputs:
        return inputs
    return {**inputs, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def test_every_tower_is_found():
    for name in VLMS:
        model = held_vlm(name)
        more = {"qformer", "qformer_cross"} if name == "instructblip" else set()
        assert {*model.towers} == {"main", "vision", *more}
        assert (model.n_layers, model.n_heads, model.d_head, model.d_model) == (3, 4, 8, 32)
        assert model.n_kv_heads == (4 if name == "instructblip" else 2)
        # a prompt of PaliGemma's is seen as a whole
        assert model.towers["main"].is_causal == (name != "paligemma")
        vision = model.towers["vision"]
        assert (len(vision.layers), vision.n_heads, vision.d_head, vision.d_model) == (2, 3, 8, 24)
        assert not vision.is_causal and not vision.is_cross
    cross = held_vlm("instructblip").towers["qformer_cross"]
    assert (len(cross.layers), cross.is_cross) == (2, True) and len(
        held_vlm("instructblip").towers["qformer"].layers
    ) == 3


def test_a_model_that_computes_eager_attention_is_held_too():
    """Without token types transformers' eager and SDPA attention of PaliGemma are causal and not."""
    assert {*wrap(eager("paligemma")).towers} == {"main", "vision"}


@pytest.mark.parametrize("name", VLMS)
def test_the_modules_of_each_layer_are_the_right_ones(name):
    model = held_vlm(name)
    for tower in model.towers.values():
        for at, layer in enumerate(tower.layers):
            attention, projection = modules_of(name, tower.name, at)
            assert layer.attention is model.hf.get_submodule(attention)
            assert layer.output_projection is model.hf.get_submodule(projection)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "text"])
def test_recomputed_attention_is_eagers_bit_by_bit(name, kind):
    model, inputs = held_vlm(name), inputs_for_vlm(name, BATCHES[kind])
    expected = eager(name)(**padded_alike(inputs)).logits
    with model.edited(Call(lambda site: site.endswith("hook_pattern"), lambda pattern, hook: pattern)):
        assert torch.equal(model(inputs), expected)
    # padding sees other keys in torch's own attention
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(model(inputs)[real], expected[real], rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", SEVERAL_PICTURES)
def test_text_alone_runs_the_language_model_alone(name):
    model, inputs = held_vlm(name), inputs_for_vlm(name, (0,))
    expected = eager(name)(**inputs).logits
    with model.edited(Call(lambda site: site.startswith("blocks"), lambda tensor, hook: tensor)):
        torch.testing.assert_close(model(inputs), expected, rtol=0, atol=3e-5)
    with pytest.raises(RuntimeError, match=r"vision\.blocks\.0\.attn\.hook_z never took effect"):
        with model.edited(Call("vision.blocks.0.attn.hook_z", lambda z, hook: z)):
            model(inputs)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_recorded_patterns_and_shapes_are_eagers(name, kind):
    model, inputs = held_vlm(name), inputs_for_vlm(name, BATCHES[kind])
    towers = ["main"] if kind == "text" else [*model.towers]
    sites = ("pattern", "z", "rot_q", "rot_k", "v")
    logits, kept = model.record(
        inputs,
        names_filter=lambda site: (
            site.rpartition("hook_")[2] in sites and (len(towers) > 1 or site.startswith("blocks"))
        ),
    )
    hf = eager(name)
    seen = {}
    for tower in towers:
        for at in range(len(model.towers[tower].layers)):
            module = hf.get_submodule(modules_of(name, tower, at)[0])
            module.register_forward_hook(lambda _, args, out, key=(tower, at): seen.update({key: out}))
    expected = hf(**padded_alike(inputs), output_attentions=True).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=3e-5)
    for (tower, at), out in seen.items():
        whole, prefix = model.towers[tower], "" if tower == "main" else f"{tower}."
        pattern, z, q, k, v = (kept[f"{prefix}blocks.{at}.attn.hook_{site}"] for site in sites)
        batch, heads, rows, keys = pattern.shape
        assert z.shape == q.shape == (batch, rows, heads, whole.d_head)
        assert k.shape == v.shape == (batch, keys, whole.n_kv_heads, whole.d_head)
        if name in QWEN and tower == "vision":
            # transformers keeps no patterns of these encoders; what they return is z through the projection
            projected = hf.get_submodule(modules_of(name, tower, at)[1])(z.flatten(2))[0]
            torch.testing.assert_close(projected, out, rtol=0, atol=1e-5)
            mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
            torch.testing.assert_close(mixed, z, rtol=0, atol=1e-5)
        else:
            torch.testing.assert_close(pattern, out[1], rtol=0, atol=1e-6)


def test_pictures_of_qwen_do_not_see_each_other():
    model, inputs = held_vlm("qwen2_5_vl"), inputs_for_vlm("qwen2_5_vl", (2,))
    pattern = model.record(inputs, names_filter=lambda site: site.startswith("vision") and "pattern" in site)[1]
    blocks = [64 // count for count in (4, 2)]  # four windows of 16 patches, two pictures of 32
    for layer, size in enumerate(blocks):
        seen = pattern[f"vision.blocks.{layer}.attn.hook_pattern"][0, 0] > 0
        assert torch.equal(seen, torch.block_diag(*[torch.ones(size, size)] * (64 // size)).bool())
    with pytest.raises(ValueError, match="made of several parts, one for each picture or window"):
        name = "vision.blocks.0.attn.hook_z"
        model.record(inputs, names_filter=[name], reduce={"z": lambda z, site: z.mean(1)})


def test_hooks_are_told_where_a_picture_begins():
    model, inputs, told = held_vlm("qwen2_vl"), inputs_for_vlm("qwen2_vl", (2,)), []
    named = [("vision.blocks.1.attn.hook_z", lambda z, hook: told.append((hook.query_start, z.shape[1])))]
    for _ in range(2):
        model.run_with_hooks(inputs, fwd_hooks=named)
    assert told == [(0, 24), (24, 24)] * 2


@pytest.mark.parametrize("name", VLMS)
def test_the_residual_stream_of_an_image_encoder_adds_up(name):
    model, inputs = held_vlm(name), inputs_for_vlm(name)
    sites = model.record(inputs, names_filter=lambda site: site.startswith("vision.blocks.1"))[1]
    stream = {site: sites[f"vision.blocks.1.hook_{site}"] for site in ("resid_pre", "attn_out", "resid_mid", "mlp_out")}
    torch.testing.assert_close(stream["resid_pre"] + stream["attn_out"], stream["resid_mid"], rtol=0, atol=1e-5)
    after = sites["vision.blocks.1.hook_resid_post"]
    torch.testing.assert_close(stream["resid_mid"] + stream["mlp_out"], after, rtol=0, atol=1e-5)
    assert after.ndim == 3 and sites["vision.blocks.1.attn.hook_result"].shape[2:] == (3, 24)


@pytest.mark.parametrize("name", VLMS)
def test_a_model_is_left_as_it_was(name):
    model, inputs = held_vlm(name), inputs_for_vlm(name)
    before, hooks = (model(inputs), model.weights_hash), hooks_of(model.hf)
    with model.edited(Call(lambda site: True, lambda tensor, hook: tensor * 0.5)):
        model(inputs)
    assert torch.equal(model(inputs), before[0]) and model.weights_hash == before[1]
    assert hooks_of(model.hf) == hooks
    assert not any(name.startswith("_headlens") for module in model.hf.modules() for name in vars(module))
    configs = [config for module in model.hf.modules() if (config := getattr(module, "config", None)) is not None]
    assert all(getattr(config, "_attn_implementation", None) != "headlens" for config in configs)


@pytest.mark.parametrize("name", VLMS)
def test_image_tokens_have_a_group(name):
    assert Resolving(None, held_vlm(name).hf.config)(Image()) == TokenIds((IMAGE_TOKEN,))


@pytest.mark.parametrize("name", VLMS)
def test_words_that_an_inner_model_knows_are_passed(name):
    model, inputs = held_vlm(name), inputs_for_vlm(name)
    words = known_words(model.hf, logits_to_keep=1, use_cache=False, no_such_word=3)
    assert words == {"logits_to_keep": 1, "use_cache": False}
    output = model.hf(**inputs, **words)
    assert output.logits.shape[1] == 1
    said = output.language_model_outputs if name == "instructblip" else output
    assert said.past_key_values is None
    torch.testing.assert_close(output.logits[:, -1], model.hf(**inputs).logits[:, -1], rtol=0, atol=1e-6)


def test_words_that_nobody_takes_on_are_not_passed():
    vision = held_vlm("llava").hf.model.vision_tower
    assert known_words(vision, use_cache=False, logits_to_keep=1) == {}


def test_text_goes_to_a_processors_tokenizer(word_tokenizer):
    def processor(images=None, text=None):
        raise AssertionError("a processor's first argument is pictures")

    processor.tokenizer = word_tokenizer
    given = prepare(held_vlm("llava").hf, processor, ["w5 w6 w7", "w8"], {})
    plain = prepare(held_vlm("llava").hf, word_tokenizer, ["w5 w6 w7", "w8"], {})
    assert torch.equal(given["input_ids"], plain["input_ids"]) and given["input_ids"].shape == (2, 3)


def test_an_encoder_that_needs_more_than_pixels_is_left_out(monkeypatch):
    whole = tiny_vlm("llava")
    encoder = whole.model.vision_tower
    needed = probe._required
    monkeypatch.setattr(probe, "_required", lambda hf: needed(hf) | ({"aspect_ratio_ids"} if hf is encoder else set()))
    assert {*probe.find_all_towers(whole)} == {"main"}
