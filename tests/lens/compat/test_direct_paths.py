"""Direct paths by replay against TransformerLens's, one whole forward each."""

import pytest
import torch
from transformer_lens import patching as peer

from headlens.compat import patching
from headlens.hooks.bridge import to_bridge
from headlens.hooks.model import wrap
from peer_runs import first_tokens, mean_difference, peer_run, same
from tiny_models import held, tiny

FUNCTION = "get_act_patch_direct_path"


def arguments(run, metric=mean_difference):
    return run.bridge, run.tokens, run.clean, run.corrupted, metric


@pytest.mark.parametrize(
    ("name", "component"),
    [("gpt2", "q"), ("gpt2", "k"), ("gpt2", "v"), ("llama", "q"), ("qwen3", "q"), ("gpt_neox", "k")],
)
def test_one_source(name, component):
    run = peer_run(name)
    got, want = (getattr(home, FUNCTION)(*arguments(run), 0, 2, component, verbose=False) for home in (patching, peer))
    same(got, want)
    assert (got[0] == 0).all()
    assert ((want[1:] - mean_difference(run.bridge(run.tokens))).abs() > 1e-4).sum() >= 3
    model = held(name)
    same(getattr(patching, FUNCTION)(model, *arguments(run)[1:], 0, 2, component, verbose=False), want)


def test_all_sources_and_a_metric_of_all_positions():
    run, metric = peer_run("llama"), lambda logits: first_tokens(logits).mean()
    got, want = (
        getattr(home, FUNCTION + "_all_sources")(*arguments(run, metric), verbose=False) for home in (patching, peer)
    )
    assert got.shape == (3, 4, 3, 4)
    same(got, want)


def test_a_source_of_the_last_layer_has_no_paths():
    assert not getattr(patching, FUNCTION)(*arguments(peer_run("llama")), 2, 0, verbose=False).any()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("gemma3", (0, 1, "q"), "In layer 0 of 'tiny-gemma3' what the heads write is normed or scaled"),
        ("llama", (0, 1, "k"), "2 key/value heads for 4 heads"),
        ("llama", (0, 1, "queries"), "Unknown component 'queries'"),
        ("llama", (0, 4, "q"), "Head L0H4 does not exist"),
    ],
)
def test_what_has_no_paths_is_refused(name, given, message):
    with pytest.raises(ValueError, match=message):
        getattr(patching, FUNCTION)(*arguments(peer_run(name)), *given, verbose=False)


def test_a_scaled_output_is_refused():
    hf = tiny("gpt_neox")
    model = wrap(hf)
    block = model.layers[1].block
    original = block.forward
    block.forward = lambda hidden, *args, **kwargs: 0.5 * original(hidden, *args, **kwargs) + 0.5 * hidden
    run = peer_run("gpt_neox")
    with pytest.raises(ValueError, match="In layer 1 .* normed or scaled"):
        getattr(patching, FUNCTION)(model, *arguments(run)[1:], 1, 0, verbose=False)


def test_hooks_on_the_bridge_are_honoured():
    run = peer_run("llama")
    halved = [("blocks.2.hook_mlp_out", lambda tensor, hook: tensor * 0.5)]
    with run.bridge.hooks(fwd_hooks=halved):
        with pytest.warns(UserWarning, match="hooks on the bridge move its logits"):
            got = getattr(patching, FUNCTION)(*arguments(run), 0, 1, verbose=False)
        same(got, getattr(peer, FUNCTION)(*arguments(run), 0, 1, verbose=False))


def test_a_folded_bridge_is_transformer_lens_alone():
    run, bridge = peer_run("gpt2"), to_bridge(wrap(tiny("gpt2")))
    bridge.enable_compatibility_mode()
    caches = [bridge.run_with_cache(tokens)[1] for tokens in (run.clean_tokens, run.tokens)]
    given = (bridge, run.tokens, *caches, mean_difference, 1, 3)
    with pytest.warns(UserWarning, match="compatibility mode"):
        got = getattr(patching, FUNCTION)(*given, verbose=False)
    same(got, getattr(peer, FUNCTION)(*given, verbose=False))
    assert torch.isfinite(got).all()
