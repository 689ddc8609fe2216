"""Where compat.patching runs whole forwards or refuses, and that it leaves nothing behind."""

from dataclasses import replace

import pandas
import pytest
import torch
from transformer_lens import patching as peer

from headlens.compat import cached_sweep, patching
from headlens.compat.runner import runner_of
from headlens.hooks.bridge import from_bridge, to_bridge
from headlens.hooks.model import wrap
from peer_runs import both, difference, mean_difference, peer_run, same
from tiny_models import tiny


def test_few_cells_are_whole_forwards(monkeypatch, whole_forwards):
    monkeypatch.setattr(cached_sweep, "FEW", 12)
    rows = pandas.DataFrame({"layer": [0] * 11, "pos": [3] * 11})
    same(*both("get_act_patch_resid_pre", "llama", index_axis_names=None, index_df=rows))
    assert len(whole_forwards) == 11


def test_a_bridge_with_hooks_of_its_own_is_run_as_a_whole():
    run = peer_run("llama")
    with run.bridge.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", lambda tensor, hook: tensor * 0.5)]):
        with pytest.warns(UserWarning, match="whole forward for each cell: replaying resid_pre at .* is off by"):
            got = patching.get_act_patch_resid_pre(run.bridge, run.tokens, run.clean, mean_difference)
        want = peer.get_act_patch_resid_pre(run.bridge, run.tokens, run.clean, mean_difference)
    same(got, want)


def test_a_bridge_that_was_folded_meanwhile_is_run_as_a_whole():
    bridge, run = to_bridge(wrap(tiny("gpt2"))), peer_run("gpt2")
    same(*both("get_act_patch_attn_head_out_all_pos", "gpt2", run=replace(run, bridge=bridge)))
    bridge.enable_compatibility_mode()
    _, clean = bridge.run_with_cache(run.clean_tokens)
    arguments = (bridge, run.tokens, clean, mean_difference)
    with pytest.warns(UserWarning, match="compatibility mode"):
        got = patching.get_act_patch_attn_head_out_all_pos(*arguments)
    same(got, peer.get_act_patch_attn_head_out_all_pos(*arguments))


def test_keys_that_later_layers_read_are_run_as_a_whole(monkeypatch):
    run = peer_run("gpt2")
    monkeypatch.setattr(runner_of(run.bridge).model.hf.config, "num_kv_shared_layers", 1, raising=False)
    with pytest.warns(UserWarning, match="later layers of GPT2LMHeadModel read k"):
        got = patching.get_act_patch_attn_head_k_all_pos(run.bridge, run.tokens, run.clean, mean_difference)
    same(got, peer.get_act_patch_attn_head_k_all_pos(run.bridge, run.tokens, run.clean, mean_difference))


def test_weights_that_were_moved_are_seen():
    bridge, run = to_bridge(wrap(tiny("llama"))), peer_run("llama")
    run = replace(run, bridge=bridge, clean=bridge.run_with_cache(run.clean_tokens)[1])
    same(*both("get_act_patch_attn_out", "llama", run=run))
    for parameter in bridge.original_model.parameters():
        parameter.data = parameter.data * 1.1
    run = replace(run, clean=bridge.run_with_cache(run.clean_tokens)[1])
    same(*both("get_act_patch_attn_out", "llama", run=run))


def test_nothing_is_left_behind():
    run = peer_run("llama")
    before, digest = run.bridge(run.tokens), from_bridge(run.bridge).weights_hash
    patching.get_act_patch_attn_head_all_pos_every(run.bridge, run.tokens, run.clean, mean_difference)
    assert torch.equal(run.bridge(run.tokens), before)
    assert from_bridge(run.bridge).weights_hash == digest
    assert not [hook for hook in run.bridge.hook_dict.values() if hook.fwd_hooks]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reduce": "sum"}, "Unknown reduce 'sum'"),
        ({"index_df": pandas.DataFrame({"layer": [0], "pos": [1]})}, "Give either index_axis_names"),
        ({"index_axis_names": None}, "Give either index_axis_names"),
        ({"index_axis_names": ("layer", "position")}, "Unknown axis 'position'"),
        ({"return_index_df": True, "baseline": True}, "return_index_df goes with a tensor"),
        ({"patching_metric": {}}, "empty mapping"),
        ({"patching_metric": difference}, r"returned shape \(2,\); return a scalar, or a \[batch\] tensor"),
        ({"reduce": "none"}, r"returned shape \(\); with reduce='none' return a \[batch\] tensor of length 2"),
        ({"model": "gpt2"}, "Expected a TransformerLens TransformerBridge or a headlens Model, not a str"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    run = peer_run("llama")
    given = {"model": run.bridge, "corrupted_tokens": run.tokens, "clean_cache": run.clean}
    with pytest.raises(ValueError, match=message):
        patching.get_act_patch_attn_out(**{**given, "patching_metric": mean_difference, **changed})


def test_a_model_in_training_mode_is_refused():
    bridge, run = to_bridge(wrap(tiny("llama"))), peer_run("llama")
    bridge.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        patching.get_act_patch_attn_out(bridge, run.tokens, run.clean, mean_difference)
