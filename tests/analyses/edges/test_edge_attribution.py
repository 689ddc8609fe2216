"""Edge attribution against gradients and small steps of one edge at a time, and against what its sums must be."""

import json

import numpy as np
import pytest
import torch
import transformers

from headlens.analyses.attribution import attribute
from headlens.analyses.edges import edge_attribution
from headlens.analyses.edges.edge_attribution import attribute_edges
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.tasks import ioi
from headlens.hooks.model import wrap
from headlens.hooks.wiring import wiring_of
from slow_edges import SlowEdges
from tiny_models import GENERATING, held, tiny
from tiny_tasks import ragged_task, task_of

POST_NORM = ("gemma2", "gemma3")


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gpt_neox"])
def test_every_edge_is_the_gradient_by_its_receivers_input_alone(name, direction):
    model, task = wrap(tiny(name).double()), ragged_task()
    slow, total, scale = SlowEdges(name, tiny(name).double()), 0, 0
    for prompt in range(len(task)):
        found, whole = slow.scores(task, prompt, direction)
        total, scale = total + found, scale + whole
    found = attribute_edges(model, task, direction=direction, progress=False)
    possible = found.wiring.possible
    assert np.array_equal(np.isnan(found.values), ~possible)
    assert np.count_nonzero(np.abs(found.values[possible]) > 1e-5) > 0.9 * possible.sum()
    # norms of Llama and its kin compute in float32
    np.testing.assert_allclose(found.values[possible], (total / scale)[possible], rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("edge", [("L0H1", "L2H3.q"), ("embed", "L1KV2.k"), ("L1H0", "MLP1"), ("MLP0", "L2KV3.v")])
def test_a_small_step_along_an_edge_moves_the_metric_as_much(edge):
    task = ragged_task().subset([0])
    slow = SlowEdges("gpt2", tiny("gpt2").double())
    moved, whole = slow.small_step(task, 0, *edge)
    found = attribute_edges(wrap(tiny("gpt2").double()), task, progress=False)
    assert found.of(*edge) == pytest.approx(-moved / whole, rel=1e-4) and abs(moved / whole) > 2e-5


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", GENERATING)
def test_the_edges_out_of_a_sender_add_up_to_its_own_attribution(name, steps):
    """The gradient by what a sender writes is the sum of the gradients by the inputs that read it."""
    model, task = held(name), ragged_task()
    found = attribute_edges(model, task, steps=steps, progress=False)
    nodes = {
        site: attribute(model, task, site, axes, direction="noising", steps=steps, progress=False).values
        for site, axes in (("z", ("layer", "head")), ("mlp_out", ("layer",)), ("resid_pre", ("layer",)))
    }
    out = dict(zip(found.senders, np.nansum(found.values, 1), strict=True))
    np.testing.assert_allclose(found.heads().values, nodes["z"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose([out[f"MLP{at}"] for at in range(3)], nodes["mlp_out"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out["embed"], nodes["resid_pre"][0], rtol=1e-4, atol=1e-4)
    assert np.abs(nodes["z"]).max() > 0.1


@pytest.mark.parametrize("name", [name for name in GENERATING if name not in POST_NORM])
def test_the_edges_into_the_logits_add_up_to_the_last_streams_attribution(name):
    model, task = held(name), ragged_task()
    into = attribute_edges(model, task, direction="denoising", progress=False).values[:, -1]
    whole = attribute(model, task, "resid_post", ("layer",), direction="denoising", progress=False).values[-1]
    assert not np.isnan(into).any() and into.sum() == pytest.approx(whole, abs=1e-4)


def test_many_steps_add_up_to_the_whole_difference():
    """Behind the embedding, integrated gradients share out all of the difference between the runs (completeness)."""
    model, task = held("llama"), task_of()
    many, one = (attribute_edges(model, task, steps=steps, progress=False) for steps in (60, 1))
    assert np.nansum(many.values[0]) == pytest.approx(1, abs=2e-3)
    assert abs(np.nansum(one.values[0]) - 1) > 0.1
    assert many.provenance["method"] == "edge attribution by integrated gradients, 60 steps"


def test_both_directions_agree_between_the_runs():
    """Averaged over the whole way, the gradient does not know which end was the base."""
    model, task = held("opt"), task_of("opt")
    there, back = (
        attribute_edges(model, task, direction=way, steps=4, progress=False) for way in ("noising", "denoising")
    )
    np.testing.assert_allclose(there.values, back.values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("metric", ["kl", "prob", "loss"])
def test_other_metrics_are_measured_as_node_attribution_measures_them(metric):
    model, task = held("llama"), ragged_task()
    found = attribute_edges(model, task, metric, progress=False)
    nodes = attribute(model, task, metric=metric, direction="noising", progress=False)
    np.testing.assert_allclose(found.heads().values, nodes.values, rtol=1e-4, atol=1e-4)
    assert found.units == nodes.units and found.provenance["metric"] == metric


def test_large_groups_are_split(monkeypatch):
    model, task = held("gemma3"), task_of("gemma3", prompts=5)
    whole = attribute_edges(model, task, progress=False)
    monkeypatch.setattr(edge_attribution, "_ROWS", 12)
    np.testing.assert_allclose(attribute_edges(model, task, progress=False).values, whole.values, rtol=0, atol=1e-5)
    monkeypatch.setattr(edge_attribution, "_BYTES", 1)
    np.testing.assert_allclose(attribute_edges(model, task, progress=False).values, whole.values, rtol=0, atol=1e-5)


def test_the_map_says_what_it_is(tmp_path):
    model, task = held("gpt_neox"), task_of("gpt_neox")
    found = attribute_edges(model, task, progress=False)
    assert found.wiring == wiring_of(model) and found.sign.startswith("Positive means that the edge carries the clean")
    assert found.provenance["direction"] == "noising" and found.provenance["task_hash"] == task.hash
    assert "axes" not in found.provenance and json.dumps(found.described())
    found.save(tmp_path / "edges.safetensors")
    np.testing.assert_array_equal(EdgeMap.load(tmp_path / "edges.safetensors").values, found.values)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"metric": "rank"}, "'rank' has no gradient"),
        ({"metric": ["kl", "prob"]}, "one at a time"),
        ({"steps": 0}, "at least 1"),
        ({"direction": "sideways"}, "Unknown direction 'sideways'"),
    ],
)
def test_what_cannot_be_attributed_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        attribute_edges(held("llama"), task_of(), progress=False, **wrong)


def test_prompts_that_do_not_differ_are_refused():
    with pytest.raises(ValueError, match="No pair of task 'ragged' differs"):
        attribute_edges(held("llama"), ragged_task().subset([2]), progress=False)


def test_a_stream_that_is_no_sum_is_refused():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.GraniteConfig(vocab_size=120, **sizes, pad_token_id=1, residual_multiplier=0.5)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="not the sum of its embedding, attention and MLPs: GraniteDecoderLayer"):
        attribute_edges(wrap(transformers.GraniteForCausalLM(config).eval()), task_of(), progress=False)


def test_no_gradient_is_left_behind():
    model, task = held("gemma2"), task_of()
    attribute_edges(model, task, progress=False)
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert not [module for module in model.hf.modules() if "forward" in module.__dict__ or module._forward_hooks]


@pytest.mark.slow
@pytest.mark.real
def test_on_the_real_model_edges_add_up_to_heads_and_find_the_mover(smollm2):
    task = ioi(smollm2, n=4, seed=0)
    found = attribute_edges(smollm2, task, progress=False)
    nodes = attribute(smollm2, task, direction="noising", progress=False)
    np.testing.assert_allclose(found.heads().values, nodes.values, rtol=0, atol=1e-4)
    assert ("L23H3", "logits") in set(found.top(5)[["sender", "receiver"]].itertuples(index=False, name=None))
