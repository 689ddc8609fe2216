"""Path patching against plain hooks, TransformerLens's direct paths, and what can be said of it without running it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens import patching as peer

from end_tasks import ragged_task, scrambled
from headlens.analyses import tasks
from headlens.analyses.patching import patch_sweep
from headlens.analyses.paths import path_patching
from headlens.analyses.paths.path_patching import path_patch
from headlens.hooks.bridge import to_bridge
from headlens.hooks.model import wrap
from headlens.hooks.paths import path_run
from slow_paths import SlowPaths
from tiny_models import held, tiny
from tiny_tasks import task_of


def named_task():
    """Ragged prompts that first differ at position 3, with positions that differ from prompt to prompt; in one of them
    S2 lies in front of the difference."""
    task = ragged_task()
    return replace(task, positions={**task.positions, "S2": torch.tensor([3, 4, 5, 2, 3, 7])})


CASES = {
    "logits": ("logits", None, "recomputed", "noising"),
    "logits, frozen MLPs": ("logits", ["END"], "frozen", "denoising"),
    "queries at END": ([("L2H1", "q"), ("L1H3", "q")], ["END"], "recomputed", "noising"),
    "values at S2": ([("L2H1", "v"), ("L2H2", "v"), ("L1H0", "v")], ["S2"], "recomputed", "denoising"),
    "everything everywhere": ([("L1H0", "k"), ("L2H3", "q"), ("L2H0", "v"), ("L1H1", "q")], None, "frozen", "noising"),
    "all keys": ([(f"L2H{head}", "k") for head in range(4)], ["S2", "END"], "recomputed", "noising"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_every_sender_equals_two_plain_runs(name, case):
    receivers, positions, mlps, direction = CASES[case]
    model, task = scrambled(name), named_task()
    found = path_patch(
        model, task, receivers, positions=positions, mlps=mlps, direction=direction, metric="logit_diff", progress=False
    )
    assert found.provenance["method"] == "replay"
    slow, last = SlowPaths.of(model, name), 3 if receivers == "logits" else 2
    moved = 0
    for layer in range(3):
        for head in range(4):
            if layer >= last:
                assert np.isnan(found.samples[:, layer, head]).all()
                continue
            want = slow.effect(task, (layer, head), receivers, positions, mlps, direction)
            np.testing.assert_allclose(found.samples[:, layer, head], want, rtol=0, atol=1e-4)
            moved += np.abs(want).max() > 1e-3
    assert moved >= 3


@pytest.mark.parametrize(
    ("name", "component"), [("gpt2", "q"), ("gpt2", "k"), ("gpt2", "v"), ("gpt_neox", "v"), ("llama", "q")]
)
def test_frozen_mlps_equal_direct_paths_of_transformer_lens(name, component):
    model, task = held(name), task_of(name, prompts=3)
    bridge, rows = to_bridge(model), torch.arange(3)

    def metric(logits):
        return (logits[rows, -1, task.answers] - logits[rows, -1, task.foils]).mean()

    with torch.no_grad():
        caches = [bridge.run_with_cache(tokens)[1] for tokens in (task.clean_tokens, task.corrupted_tokens)]
        unpatched = float(metric(bridge(task.corrupted_tokens)))
        effects = []
        for head in range(4):
            into = peer.get_act_patch_direct_path(
                bridge, task.corrupted_tokens, *caches, metric, 0, head, component, verbose=False
            )
            effects.append(into.numpy() - unpatched)
    for receiver in [(1, 2), (2, 3)]:
        label = f"L{receiver[0]}H{receiver[1]}"
        found = path_patch(model, task, (label, component), mlps="frozen", direction="denoising", progress=False)
        want = [into[receiver] for into in effects]
        np.testing.assert_allclose(found.samples.mean(0)[0], want, rtol=0, atol=1e-4)
        assert np.abs(want).max() > 1e-3


def test_frozen_mlps_into_the_logits_are_the_head_s_difference_through_the_final_norm():
    model, task = scrambled("llama"), task_of(prompts=3)
    found = path_patch(model, task, mlps="frozen", progress=False)
    with torch.no_grad():
        runs = [
            model.record(tokens, names_filter=["z", "resid_post"])[1]
            for tokens in (task.clean_tokens, task.corrupted_tokens)
        ]
        final = runs[0]["blocks.2.hook_resid_post"][:, -1]
        for layer in range(3):
            clean, corrupted = (run[f"blocks.{layer}.attn.hook_z"][:, -1] for run in runs)
            weights = model.hf.model.layers[layer].self_attn.o_proj.weight.T.unflatten(0, (4, -1))
            for head in range(4):
                moved = final + (corrupted - clean)[:, head] @ weights[head]
                before, after = (model.hf.lm_head(model.hf.model.norm(each)) for each in (final, moved))
                rows = torch.arange(3)
                change = (before - after)[rows, task.answers] - (before - after)[rows, task.foils]
                np.testing.assert_allclose(found.samples[:, layer, head], change, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma3", "gpt_oss"])
def test_what_the_last_layer_says_at_end_has_no_other_way_than_the_logits(name):
    model, task = held(name), ragged_task()
    direct = path_patch(model, task, progress=False, direction="denoising")
    total = patch_sweep(model, task, positions="END", progress=False)
    np.testing.assert_allclose(direct.samples[:, 2], total.samples[:, 2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(direct.scale, total.scale, rtol=0, atol=1e-5)
    assert np.abs(direct.samples[:, 0] - total.samples[:, 0]).max() > 1e-2


def test_values_are_a_ratio_of_means_and_directions_agree_on_the_scale():
    model, task = held("llama"), named_task()
    noising, denoising = (path_patch(model, task, direction=each, progress=False) for each in ("noising", "denoising"))
    np.testing.assert_allclose(noising.values, noising.samples.mean(0) / noising.scale.mean(), rtol=1e-5)
    np.testing.assert_allclose(noising.scale, denoising.scale, rtol=0, atol=1e-5)
    assert noising.dims == ("layer", "head") and noising.samples.shape == (6, 3, 4)


def test_a_sender_that_says_the_same_is_0_without_a_forward(monkeypatch):
    hf = tiny("llama")
    with torch.no_grad():
        hf.model.layers[1].self_attn.v_proj.weight[:8] = 0
    model, task = wrap(hf), task_of()
    whole = path_patch(model, task, progress=False)
    assert (whole.samples[:, 1, :2] == 0).all() and (whole.samples[:, 1, 2:] != 0).all()
    monkeypatch.setattr(path_run, "with_mlps", lambda *args: pytest.fail("a forward was run"))
    silent = path_patch(model, task, senders=["L1H0", "L1H1"], progress=False)
    assert (silent.samples[:, 1, :2] == 0).all()
    # in front of position 4 runs agree
    found = path_patch(model, task, ("L2H0", "q"), positions=[1, 3], progress=False)
    assert (found.samples[:, :2] == 0).all() and np.isnan(found.samples[:, 2]).all()


def test_what_is_said_elsewhere_than_at_end_does_not_reach_the_logits():
    model, task = held("llama"), named_task()
    mixed = replace(task, positions={**task.positions, "HERE": torch.tensor([11, 4, 8, 3, 3, 7])})
    found, at_end = (path_patch(model, mixed, positions=name, progress=False) for name in ("HERE", "END"))
    assert found.provenance["method"] == "replay"
    np.testing.assert_allclose(found.samples[[0, 2]], at_end.samples[[0, 2]], rtol=0, atol=1e-5)
    assert (found.samples[[1, 3, 4, 5]] == 0).all() and (at_end.samples[[1, 3, 4, 5]] != 0).any()


def test_receivers_of_one_key_value_head_are_one():
    model, task = held("llama"), task_of()
    one, both = (
        path_patch(model, task, receivers, progress=False)
        for receivers in ([("L2H2", "v")], [("L2H3", "v"), ("L2H2", "v")])
    )
    assert np.array_equal(one.samples, both.samples, equal_nan=True)
    assert both.provenance["receivers"] == ["L2KV1.v"]
    assert both.provenance["receivers_read_by"] == {"L2KV1.v": ["L2H2", "L2H3"]}
    assert "receivers_read_by" not in path_patch(held("gpt2"), task, ("L2H2", "v"), progress=False).provenance


def test_chosen_senders_are_the_same_as_among_all():
    model, task = held("llama"), task_of()
    whole = path_patch(model, task, ("L2H1", "q"), progress=False)
    some = path_patch(model, task, ("L2H1", "q"), senders=["L1H2", "L0H0", "L2H1"], progress=False)
    assert np.argwhere(~np.isnan(some.values)).tolist() == [[0, 0], [1, 2]]
    for layer, head in [(0, 0), (1, 2)]:
        np.testing.assert_allclose(some.samples[:, layer, head], whole.samples[:, layer, head], rtol=0, atol=1e-5)
    assert some.provenance["senders"] == ["L0H0", "L1H2"]


def test_little_memory_and_small_batches_change_nothing(monkeypatch):
    model, task = held("gemma2"), named_task()
    given = {"receivers": [("L2H1", "k"), ("L1H0", "v")], "positions": ["S2..END"], "progress": False}
    whole = path_patch(model, task, **given)
    monkeypatch.setattr("headlens.hooks.sweep.ROWS", 30)
    np.testing.assert_allclose(path_patch(model, task, memory=1, **given).samples, whole.samples, rtol=0, atol=1e-5)


def test_several_metrics_each_have_their_scale():
    model, task = held("llama"), task_of()
    metrics = ["logit_diff", "kl", "prob"]
    together = path_patch(model, task, metric=metrics, progress=False)
    assert together.dims == ("layer", "head", "metric")
    for metric in metrics:
        alone = path_patch(model, task, metric=metric, progress=False)
        np.testing.assert_allclose(together.sel(metric=metric).values, alone.values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_a_model_that_cannot_be_replayed_is_patched_by_plain_forwards(mlps, monkeypatch):
    model, task = held("gemma2"), named_task()
    given = {"receivers": [("L2H1", "q"), ("L1H1", "v")], "mlps": mlps, "progress": False}
    replayed = path_patch(model, task, **given)
    monkeypatch.setattr(path_patching, "why_not_by_replay", lambda *args: "the test says so")
    plain = path_patch(model, task, **given)
    assert plain.provenance["method"] == "plain forwards, since the test says so"
    np.testing.assert_allclose(plain.samples, replayed.samples, rtol=0, atol=1e-4)


def test_a_scaled_attention_output_is_found_out_and_patched_by_plain_forwards():
    model = wrap(tiny("gpt_neox"))
    block = model.layers[1].block
    original = block.forward
    block.forward = lambda hidden, *args, **kwargs: 0.5 * original(hidden, *args, **kwargs) + 0.5 * hidden
    found = path_patch(model, task_of("gpt_neox"), mlps="frozen", senders=["L1H0", "L1H2"], progress=False)
    assert found.provenance["method"].startswith("plain forwards, since replaying GPTNeoXForCausalLM is off by")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"receivers": "logit"}, "expected 'logits', or pairs of a head and q, k or v"),
        ({"receivers": [("L2H0", "z")]}, r"The receiver \('L2H0', 'z'\) was given"),
        ({"receivers": [("L3H0", "q")]}, "L3H0 does not exist"),
        ({"receivers": []}, "No receivers were given"),
        ({"receivers": [("L0H0", "q")]}, "No sender comes before the receiver L0H0.q"),
        ({"receivers": [("L1H0", "q")], "senders": ["L1H2"]}, "No sender comes before the receiver L1H0.q"),
        ({"senders": []}, "names no heads"),
        ({"senders": ["L0H7"]}, "L0H7 does not exist"),
        ({"mlps": "thawed"}, "Unknown mlps 'thawed'; give recomputed or frozen"),
        ({"positions": 4}, r"positions \[4\] were given, and the logits are read at END"),
        ({"positions": "S3"}, "has no position 'S3'"),
        ({"metric": "logit_dif"}, "did you mean 'logit_diff'"),
        ({"direction": "sideways"}, "give denoising or noising"),
        ({"memory": "much"}, "'much' is not a size"),
    ],
)
def test_a_wrong_argument_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        path_patch(held("llama"), task_of(), progress=False, **wrong)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_what_is_not_a_causal_language_model_is_refused(name):
    with pytest.raises(ValueError, match="is not a causal language model"):
        path_patch(held(name), task_of(), progress=False)


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_s_movers_write_into_the_logits(smollm2):
    task = tasks.ioi(smollm2, n=4, seed=0)
    found = path_patch(smollm2, task, progress=False)
    assert found.provenance["method"] == "replay"
    first = found.top(4)
    assert first["label"][0] == "L23H3" and first["value"][0] > 0.3
    assert first.set_index("label")["value"]["L24H4"] < -0.1
    slow = SlowPaths.of(smollm2, "llama")
    for layer, head in [(23, 3), (24, 4), (20, 0)]:
        want = slow.effect(task, (layer, head), "logits", None, "recomputed", "noising")
        np.testing.assert_allclose(found.samples[:, layer, head], want, rtol=0, atol=1e-3)


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_s_paths_into_later_heads_equal_two_plain_runs(smollm2):
    task = tasks.ioi(smollm2, n=2, seed=0)
    receivers = [("L23H3", "v"), ("L20H0", "v"), ("L19H2", "q")]
    senders = ["L17H4", "L18H6", "L11H5", "L23H1"]
    found = path_patch(smollm2, task, receivers, positions=["S2", "END"], senders=senders, progress=False)
    assert np.isnan(found.values[23, 1]) and np.nanargmax(found.values) == 17 * 9 + 4
    slow = SlowPaths.of(smollm2, "llama")
    for layer, head in [(17, 4), (18, 6), (11, 5)]:
        want = slow.effect(task, (layer, head), receivers, ["S2", "END"], "recomputed", "noising")
        np.testing.assert_allclose(found.samples[:, layer, head], want, rtol=0, atol=1e-3)
