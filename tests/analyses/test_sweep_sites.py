"""Sweeps over every site and axis against TransformerLens's own patching on the same weights, or plain edited runs."""

import numpy as np
import pytest
import torch

from headlens.analyses.patching import patch_sweep
from headlens.hooks.edits import Ablate, Call, Patch
from tiny_models import held
from tiny_tasks import peer_effects, ragged_task, task_of

BY_HEAD = {
    ("z", "head"): "get_act_patch_attn_head_out_all_pos",
    ("rot_q", "head"): "get_act_patch_attn_head_q_all_pos",
    ("rot_k", "head"): "get_act_patch_attn_head_k_all_pos",
    ("v", "head"): "get_act_patch_attn_head_v_all_pos",
    ("pattern", "head"): "get_act_patch_attn_head_pattern_all_pos",
    ("rot_q", "pos"): "get_act_patch_attn_head_q_by_pos",
    ("rot_k", "pos"): "get_act_patch_attn_head_k_by_pos",
    ("v", "pos"): "get_act_patch_attn_head_v_by_pos",
    ("pattern", "pos"): "get_act_patch_attn_head_pattern_by_pos",
    ("pattern", "key"): "get_act_patch_attn_head_pattern_dest_src_pos",
}
BY_LAYER = {
    "resid_pre": "get_act_patch_resid_pre",
    "resid_mid": "get_act_patch_resid_mid",
    "attn_out": "get_act_patch_attn_out",
    "mlp_out": "get_act_patch_mlp_out",
}
AXES = {"head": ("layer", "head"), "pos": ("layer", "head", "pos"), "key": ("layer", "head", "query", "key")}


@pytest.mark.parametrize(("site", "by"), BY_HEAD)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_heads_equal_transformer_lens(name, site, by):
    model, task = held(name), task_of(name)
    found = patch_sweep(model, task, site=site, axes=AXES[by], progress=False)
    peer = peer_effects(model, task, "denoising", BY_HEAD[site, by])
    if by == "pos" and site != "pattern":
        peer = peer.transpose(0, 2, 1)
    effects = found.samples.mean(0)
    assert effects.shape == peer.shape and found.provenance["method"] == "replay"
    hidden = np.isnan(effects)
    assert hidden.any() == (by == "key") and not peer[hidden].any()
    np.testing.assert_allclose(effects[~hidden], peer[~hidden], rtol=0, atol=1e-4)
    assert np.abs(peer).max() > 0.05


@pytest.mark.parametrize("site", BY_LAYER)
@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_layers_equal_transformer_lens(name, site):
    model, task = held(name), task_of(name)
    found = patch_sweep(model, task, site=site, direction="noising", progress=False)
    peer = peer_effects(model, task, "noising", BY_LAYER[site])
    np.testing.assert_allclose(found.samples.mean(0), peer, rtol=0, atol=1e-4)
    assert found.dims == ("layer", "pos") and np.abs(peer).max() > 0.1


def moved(model, task, edits, tokens="corrupted"):
    """How far each prompt's answer-minus-foil difference moves under edits, one prompt at a time."""
    out = []
    for prompt in range(len(task)):
        length = int(task.lengths[prompt])
        clean, base = (rows[prompt : prompt + 1, :length] for rows in (task.clean_tokens, task.corrupted_tokens))
        other, base = (clean, base) if tokens == "corrupted" else (base, clean)
        with torch.no_grad():
            before = model(base)[0, -1]
            with model.edited(*edits(other, prompt)):
                after = model(base)[0, -1]
        pair = [int(task.answers[prompt]), int(task.foils[prompt])]
        change = (after - before)[pair]
        out.append(float(change[0] - change[1]))
    return np.array(out, np.float32)


@pytest.mark.parametrize("site", ["attn_scores", "result", "resid_post"])
def test_the_other_sites_equal_edited_runs(site):
    model, task = held("llama"), ragged_task()
    found = patch_sweep(model, task, site=site, axes=("layer",), progress=False)

    def exchange(layer):
        def edits(clean, prompt):
            inside = "" if site == "resid_post" else "attn."
            name = f"blocks.{layer}.{inside}hook_{site}"
            kept = model.record(clean, names_filter=[name])[1][name]
            return [Call(name, lambda tensor, hook: kept)]

        return edits

    for layer in range(3):
        want = moved(model, task, exchange(layer))
        np.testing.assert_allclose(found.samples[:, layer], want, rtol=0, atol=1e-4)
        assert np.abs(want).max() > 0.05


def test_a_set_of_heads_is_one_cell():
    model, task = held("gemma2"), task_of()
    sets = [["L0H1", "L2H3"], ["L1H0"], ["L0H0", "L1H1", "L1H2", "L2H0"]]
    found = patch_sweep(model, task, heads=sets, progress=False)
    assert found.dims == ("heads",) and found.coords["heads"] == ("L0H1+L2H3", "L1H0", "L0H0+L1H1+L1H2+L2H0")

    def exchange(heads):
        return lambda clean, prompt: [Patch(heads, model.record(clean, names_filter="z")[1])]

    for index, heads in enumerate(sets):
        np.testing.assert_allclose(found.samples[:, index], moved(model, task, exchange(heads)), rtol=0, atol=1e-4)
    alone = patch_sweep(model, task, progress=False)
    np.testing.assert_allclose(found.samples[:, 1], alone.samples[:, 1, 0], rtol=0, atol=1e-5)
    (single,) = patch_sweep(model, task, heads=["L0H1", "L2H3"], progress=False).coords["heads"]
    assert single == "L0H1+L2H3"


def test_named_positions_and_spans():
    model, task = held("llama"), ragged_task()
    places = torch.tensor([3, 4, 5, 6, 3, 8])
    named = type(task)(
        "named", task.clean_tokens, task.corrupted_tokens, task.lengths, task.answers, task.foils, {"S2": places}
    )
    axes = ("layer", "head", "pos")
    everywhere = patch_sweep(model, named, axes=axes, progress=False)
    found = patch_sweep(model, named, axes=axes, positions=["S2", "END", "S2..END", 4], progress=False)
    assert found.coords["pos"] == ("S2", "END", "S2..END", 4)
    rows, ends = np.arange(6), named.lengths.numpy() - 1
    for index, at in ((0, places.numpy()), (1, ends), (3, np.full(6, 4))):
        np.testing.assert_allclose(found.samples[..., index], everywhere.samples[rows, ..., at], rtol=0, atol=1e-5)
    together = patch_sweep(model, named, positions="S2..END", progress=False)
    np.testing.assert_allclose(together.samples, found.samples[..., 2], rtol=0, atol=1e-5)

    def exchange(clean, prompt):
        kept = model.record(clean, names_filter="z")[1]
        return [Patch("L1H2", kept, pos=pos) for pos in range(int(places[prompt]), clean.shape[1])]

    np.testing.assert_allclose(together.samples[:, 1, 2], moved(model, named, exchange), rtol=0, atol=1e-4)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("source", ["zero", "mean", "mean_positional", "resample"])
def test_sources_equal_ablated_runs(source, direction):
    model, task = held("qwen3"), ragged_task().subset([0, 1, 4, 5])
    found = patch_sweep(model, task, source=source, direction=direction, seed=3, memory=1, progress=False)
    other = task.clean_tokens if direction == "denoising" else task.corrupted_tokens
    runs = [model.record(other[p : p + 1, : int(task.lengths[p])], names_filter="z")[1] for p in range(4)]

    def reference(layer, prompt):
        """What is put in for this prompt, worked out prompt by prompt and position by position."""
        name = f"blocks.{layer}.attn.hook_z"
        rows = [run[name][0] for run in runs]
        length = len(rows[prompt])
        if source == "zero":
            return torch.zeros_like(rows[prompt])
        if source == "mean":
            return torch.cat(rows).mean(0).expand(length, -1, -1)
        if source == "mean_positional":
            return torch.stack([torch.stack([r[at] for r in rows if len(r) > at]).mean(0) for at in range(length)])
        # each length has two prompts here, so the other prompt is the one that is not this
        (partner,) = [p for p in range(4) if p != prompt and len(rows[p]) == length]
        return rows[partner]

    tokens = "corrupted" if direction == "denoising" else "clean"
    toward = 1 if direction == "denoising" else -1
    for layer, head in ((0, 1), (1, 3), (2, 2)):
        edits = lambda other, prompt, at=layer, of=head: [Patch((at, of), reference(at, prompt)[None])]  # noqa: E731
        want = toward * moved(model, task, edits, tokens)
        np.testing.assert_allclose(found.samples[:, layer, head], want, rtol=0, atol=1e-4)
        assert np.abs(want).max() > 0.02


@pytest.mark.parametrize("site", ["rot_k", "v", "pattern", "attn_scores", "mlp_out", "resid_mid"])
@pytest.mark.parametrize("source", ["zero", "mean", "mean_positional", "resample"])
def test_every_source_at_every_site_replays_exactly(site, source):
    if source == "mean" and site in ("pattern", "attn_scores"):
        return
    model, task = held("gemma3"), ragged_task().subset([0, 1, 4, 5])
    found = patch_sweep(model, task, site=site, axes=("layer",), source=source, progress=False)
    assert found.provenance["method"] == "replay" and np.isfinite(found.samples).all()
    assert np.abs(found.samples).max() > 0.02


def test_a_lone_length_cannot_be_resampled():
    with pytest.raises(ValueError, match="Prompt 3 is the only one of 9 tokens"):
        patch_sweep(held("llama"), ragged_task(), source="resample", progress=False)


def test_zero_is_what_ablation_does():
    model, task = held("opt"), task_of("opt")
    found = patch_sweep(model, task, source="zero", direction="noising", progress=False)
    want = -moved(model, task, lambda other, prompt: [Ablate("L1H1")], "clean")
    np.testing.assert_allclose(found.samples[:, 1, 1], want, rtol=0, atol=1e-4)
