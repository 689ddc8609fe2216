"""headlens.compat.patching against transformer_lens.patching itself: every function and kind of result."""

import pandas
import pytest
import torch
from transformer_lens import patching as peer
from transformer_lens.patching import PatchingResult

from headlens.compat import patching
from headlens.hooks.bridge import to_bridge
from peer_runs import LENGTH, both, difference, first_tokens, mean_difference, moved, peer_run, same
from tiny_models import held

BRIDGED = ("gpt2", "llama", "gemma3", "gpt_neox", "qwen3", "phi3")
SITES = {
    "resid_pre": (peer.layer_pos_patch_setter, [(0, 2), (1, 4), (2, 3), (2, 1)]),
    "attn_out": (peer.layer_pos_patch_setter, [(0, 2), (1, 4), (2, 3)]),
    "mlp_out": (peer.layer_pos_patch_setter, [(0, 2), (1, 4), (2, 4)]),
    "z": (peer.layer_pos_head_vector_patch_setter, [(0, 2, 1), (2, 4, 3), (1, -1, -2)]),
    "q": (peer.layer_pos_head_vector_patch_setter, [(0, 2, 1), (2, 4, 3), (1, 3, 0), (1, 3, 1)]),
    "k": (peer.layer_pos_head_vector_patch_setter, [(0, 2, 1), (2, 2, 0), (1, 3, 0), (1, 2, -1)]),
    "v": (peer.layer_pos_head_vector_patch_setter, [(0, 2, 1), (2, 4, 0), (1, 3, 0), (1, 2, 1)]),
    "pattern": (
        peer.layer_head_dest_src_pos_pattern_patch_setter,
        [(0, 1, 4, 2), (2, 3, 4, 0), (1, 0, 3, 3), (1, 2, 2, 4)],
    ),
    "attn_scores": (peer.layer_head_pos_pattern_patch_setter, [(0, 1, 2), (2, 3, 4), (1, 0, 3)]),
}


def test_nothing_that_transformer_lens_has_is_missing():
    theirs = {name for name, value in vars(peer).items() if getattr(value, "__module__", "") == peer.__name__}
    theirs |= {name for name in vars(peer) if name.startswith("get_act_patch")}
    public = {name for name in theirs if not name.startswith("_")}
    assert public == set(patching.__all__)
    assert patching.layer_pos_patch_setter is peer.layer_pos_patch_setter


@pytest.mark.parametrize("activation", SITES)
@pytest.mark.parametrize("name", BRIDGED)
def test_chosen_cells_of_every_site(name, activation, whole_forwards):
    setter, rows = SITES[activation]
    index = pandas.DataFrame(rows)
    got, want = both("generic_activation_patch", name, patch_setter=setter, activation_name=activation, index_df=index)
    assert got.shape == (len(rows),) and len(whole_forwards) == 3
    same(got, want)
    # the last row lies before the first difference, or behind what its query may see
    assert moved(name, want) >= 1


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gpt2", "get_act_patch_block_every"),
        ("gpt2", "get_act_patch_attn_head_all_pos_every"),
        ("gemma3", "get_act_patch_attn_head_all_pos_every"),
        ("gemma3", "get_act_patch_attn_head_by_pos_every"),
    ],
)
def test_all_cells_of_all_types(name, function):
    got, want = both(function, name)
    assert got.shape == want.shape
    same(got, want)
    assert moved(name, want) > 10
    if name == "gemma3":
        # it has two key/value heads
        assert (got[2, ..., 2:] == 0).all() and (got[2, ..., :2] != 0).all()


@pytest.mark.parametrize(("name", "moves"), [("llama", True), ("gpt_neox", False)])
def test_resid_mid(name, moves):
    if not moves:
        with pytest.raises(KeyError, match="hook_resid_mid"):
            both("get_act_patch_resid_mid", name)
        return
    got, want = both("get_act_patch_resid_mid", name)
    same(got, want)
    assert moved(name, want) >= 5
    run = peer_run(name)
    with torch.enable_grad():
        same(patching.get_act_patch_resid_mid(run.bridge, run.tokens, run.clean, mean_difference), want)


def test_every_entry_of_a_pattern():
    rows = pandas.DataFrame([(1, 2, dest, src) for dest in range(LENGTH) for src in range(LENGTH)])
    kwargs = {"index_axis_names": None, "index_df": rows}
    same(*both("get_act_patch_attn_head_pattern_dest_src_pos", "qwen3", **kwargs))
    run = peer_run("qwen3")
    whole = patching.get_act_patch_attn_head_pattern_dest_src_pos(run.bridge, run.tokens, run.clean, mean_difference)
    got = patching.get_act_patch_attn_head_pattern_dest_src_pos(
        run.bridge, run.tokens, run.clean, mean_difference, **kwargs
    )
    assert whole.shape == (3, 4, LENGTH, LENGTH)
    same(whole[1, 2].flatten(), got)


@pytest.mark.parametrize("reduce", ["scalar", "mean", "none"])
@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_kinds_of_result(reduce, baseline, several):
    per_prompt = {"end": difference, "all": first_tokens}
    metrics = per_prompt if reduce != "scalar" else {k: lambda x, f=f: f(x).mean() for k, f in per_prompt.items()}
    metric = metrics if several else metrics["end"]
    # key/value heads that are not there count as cells, which one kind of result is enough to show
    heads = ["get_act_patch_attn_head_all_pos_every"] if reduce == "none" and several and baseline else []
    for function in ("get_act_patch_attn_head_pattern_all_pos", "get_act_patch_block_every", *heads):
        got, want = both(function, "llama", metric, reduce=reduce, baseline=baseline)
        assert type(got) is type(want)
        if isinstance(want, torch.Tensor):
            assert reduce != "none" and not baseline and not several
            same(got, want)
            continue
        assert isinstance(got, PatchingResult)
        same(got.values, want.values)
        assert (got.baseline is None) == (want.baseline is None) == (not baseline)
        if baseline:
            same(got.baseline, want.baseline)
            same(got.effect(), want.effect())
        for field in ("axis_names", "metric_names", "reduced", "has_metric_axis", "patch_type_names"):
            assert getattr(got, field) == getattr(want, field), field
        pandas.testing.assert_frame_equal(got.index_df, want.index_df)
        assert len(got.to_dataframe()) == len(want.to_dataframe())


def test_rows_come_back_where_asked_for():
    got, want = both("get_act_patch_attn_out", "llama", return_index_df=True)
    same(got[0], want[0])
    pandas.testing.assert_frame_equal(got[1], want[1])
    flat, no_rows = (pandas.DataFrame(rows, columns=["layer", "pos"]) for rows in ([(2, 3)], []))
    got, want = both("get_act_patch_attn_out", "llama", index_axis_names=None, index_df=flat, return_index_df=True)
    same(got[0], want[0])
    assert both("get_act_patch_attn_out", "llama", index_axis_names=None, index_df=no_rows)[0].shape == (0,)


def test_a_changed_cache_is_honoured():
    run = peer_run("llama")
    noise = torch.randn(32, generator=torch.Generator().manual_seed(0))
    cache = {name: run.corrupted[name].clone() for name in run.corrupted if name.startswith("blocks")}
    cache["blocks.1.hook_resid_pre"][0, 0] += noise * 1e-2
    # in one layer later than in another
    cache["blocks.1.attn.hook_q"][:, 3] += 0.3
    cache["blocks.2.attn.hook_q"][:, 1] += 0.3
    cache["blocks.2.attn.hook_v"][:, 0, 1] += 0.3
    for function in ("get_act_patch_resid_pre", "get_act_patch_attn_head_q_by_pos", "get_act_patch_attn_head_v_by_pos"):
        got, want = both(function, "llama", first_per_position, cache=cache)
        same(got, want)
        changed = (got - first_per_position(run.bridge(run.tokens))).abs() > 1e-5
        assert changed.any() and not changed.all(), function


def first_per_position(logits):
    return logits[:, :, 5].mean()


def test_a_cache_of_one_prompt_serves_all():
    run = peer_run("gpt2")
    _, cache = run.bridge.run_with_cache(run.clean_tokens[:1])
    same(*both("get_act_patch_attn_head_q_all_pos", "gpt2", cache=cache))


def test_a_setter_of_ones_own(whole_forwards):
    def double(activation, index, clean):
        activation[:, index[1]] = 2 * clean[:, index[1]]
        return activation

    rows = pandas.DataFrame({"layer": [0, 2], "pos": [2, 4]})
    kwargs = {"patch_setter": double, "activation_name": "mlp_out", "index_df": rows}
    same(*both("generic_activation_patch", "llama", **kwargs))
    assert len(whole_forwards) == 2
    # a place that the engine does not know
    kwargs = {"patch_setter": peer.layer_pos_patch_setter, "activation_name": "post", "index_df": rows}
    same(*both("generic_activation_patch", "llama", **kwargs))
    run = peer_run("llama")
    got = patching.generic_activation_patch(held("llama"), run.tokens, run.clean, mean_difference, **kwargs)
    same(got, peer.generic_activation_patch(run.bridge, run.tokens, run.clean, mean_difference, **kwargs))


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox"])
@pytest.mark.parametrize("function", ["q_by_pos", "k_by_pos", "v_all_pos", "pattern_by_pos", "out_all_pos"])
def test_a_headlens_model_with_a_cache_of_its_own(name, function):
    run, model = peer_run(name), held(name)
    _, cache = model.run_with_cache(run.clean_tokens)
    function = f"get_act_patch_attn_head_{function}"
    got = getattr(patching, function)(model, run.tokens, cache, mean_difference)
    same(got, both(function, name)[1])


def test_a_headlens_model_with_a_bridges_cache():
    run = peer_run("gpt_neox")
    got = patching.get_act_patch_attn_head_q_all_pos(held("gpt_neox"), run.tokens, run.clean, mean_difference)
    same(got, both("get_act_patch_attn_head_q_all_pos", "gpt_neox")[1])


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_real_model(smollm2):
    from headlens.analyses.tasks import ioi

    bridge, task, rows = to_bridge(smollm2), ioi(smollm2, n=2, templates="when-went"), torch.arange(2)
    _, clean = bridge.run_with_cache(task.clean_tokens)

    def logit_difference(logits):
        last = logits[:, -1]
        return (last[rows, task.answers] - last[rows, task.foils]).mean()

    arguments = (bridge, task.corrupted_tokens, clean, logit_difference)
    for function, row in (("out_all_pos", (23, 3)), ("k_by_pos", (3, 9, 1)), ("pattern_all_pos", (20, 0))):
        cells = pandas.DataFrame([row, (0, *row[1:]), (5, *row[1:]), (29, *row[1:])])
        kwargs = {"index_axis_names": None, "index_df": cells}
        got, want = (
            getattr(home, f"get_act_patch_attn_head_{function}")(*arguments, **kwargs) for home in (patching, peer)
        )
        same(got, want)
        assert (want - want[1]).abs().max() > 1e-3, function
