"""Exact effects of single edges, against plain loops in float64 and against runs with all edges but one."""

from inspect import unwrap

import numpy as np
import pytest
import torch

from headlens.analyses.edges.edge_effects import edge_effects
from headlens.analyses.edges.edge_names import edges_named
from headlens.analyses.ioi import ioi
from headlens.analyses.patching import patch_sweep
from headlens.analyses.task import Task
from headlens.hooks.edges.edge_ground import ground_of_run
from headlens.hooks.edges.edge_run import run_edges
from headlens.hooks.reading import Read
from headlens.hooks.wiring import wiring_of
from plain_edges import PlainEdges
from tiny_models import held
from tiny_tasks import ragged_task, task_of

NAMES = ("gpt2", "llama", "gpt_neox")


def some_edges(wiring, count=9, seed=0):
    """Edges of every kind of sender and receiver, in no order, named as in the wiring."""
    possible = np.argwhere(wiring.possible)
    random = np.random.default_rng(seed)
    drawn = [possible[at] for at in random.choice(len(possible), count, replace=False)]
    known = [("embed", "MLP0"), ("embed", "L0H0.q"), ("MLP1", "logits"), ("embed", "logits"), ("L1H2", "L2H3.q")]
    return [*known, *((str(wiring.senders[row]), str(wiring.receivers[column])) for row, column in drawn)]


def places(wiring, edges):
    named = edges_named(wiring, edges)
    return [(wiring.senders.index(edge.sender), wiring.receivers.index(edge.receiver)) for edge in named]


def plain_samples(name, task, edges, direction):
    """Samples [edge, prompt] and scale [prompt] of the logit difference, one prompt and edge at a time."""
    plain, wiring = PlainEdges(held(name)), wiring_of(held(name))
    samples, scale = torch.zeros(len(edges), len(task)), torch.zeros(len(task))
    for prompt in range(len(task)):
        length = int(task.lengths[prompt])
        clean, corrupted = (each[prompt : prompt + 1, :length] for each in (task.clean_tokens, task.corrupted_tokens))
        base, other = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
        toward = 1 if direction == "denoising" else -1
        written, whole = plain.run(other, wiring, wiring.possible)

        def metric(logits, prompt=prompt):
            return logits[0, task.answers[prompt]] - logits[0, task.foils[prompt]]

        unpatched = metric(plain.run(base, wiring, wiring.possible)[1])
        scale[prompt] = toward * (metric(whole) - unpatched)
        for index, (row, column) in enumerate(places(wiring, edges)):
            kept = wiring.possible.copy()
            kept[row, column] = False
            samples[index, prompt] = toward * (metric(plain.run(base, wiring, kept, written)[1]) - unpatched)
    return samples.numpy(), scale.numpy()


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("name", NAMES)
def test_effects_are_those_of_plain_loops(name, direction):
    task, edges = task_of(name, prompts=2), some_edges(wiring_of(held(name)))
    effects = edge_effects(held(name), task, edges, direction=direction, progress=False)
    samples, scale = plain_samples(name, task, edges, direction)
    assert np.abs(samples).max() > 0.05
    np.testing.assert_allclose(effects.samples, samples, rtol=0, atol=3e-5)
    np.testing.assert_allclose(effects.scale, scale, rtol=0, atol=3e-5)
    np.testing.assert_allclose(effects.values, samples.mean(1) / scale.mean(), rtol=0, atol=3e-4)


@pytest.mark.parametrize("memory", ["1GiB", "1KiB"])
def test_prompts_of_different_lengths_and_a_pair_that_does_not_differ(memory):
    task, edges = ragged_task(), some_edges(wiring_of(held("llama")), 6)
    effects = edge_effects(held("llama"), task, edges, memory=memory, progress=False)
    samples, scale = plain_samples("llama", task, edges, "noising")
    np.testing.assert_allclose(effects.samples, samples, rtol=0, atol=3e-5)
    np.testing.assert_allclose(effects.scale, scale, rtol=0, atol=3e-5)
    assert (effects.samples[:, 2] == 0).all()
    assert effects.scale[2] == 0


@pytest.mark.parametrize("name", ["qwen3", "mistral", "opt", "phi3", "cohere", "gpt_oss"])
def test_effects_are_those_of_a_run_with_all_edges_but_one(name):
    model, task = held(name), task_of(name, prompts=3)
    wiring, edges = wiring_of(model), some_edges(wiring_of(model), 8)
    kept = np.repeat(wiring.possible[None], len(edges) + 1, 0)
    for index, place in enumerate(places(wiring, edges)):
        kept[(index, *place)] = False
    ground = ground_of_run(model, task.clean_tokens, task.corrupted_tokens, 4)
    logits = run_edges(model, ground, kept, Read(torch.stack([task.answers, task.foils], 1)))
    metric = logits[..., 0] - logits[..., 1]
    effects = edge_effects(model, task, edges, progress=False)
    np.testing.assert_allclose(effects.samples, (metric[-1] - metric[:-1]).numpy(), rtol=0, atol=2e-5)


def test_all_of_a_last_layer_head_is_its_edge_to_the_logits_where_no_mlp_reads_it():
    model, task = held("gpt_neox"), task_of("gpt_neox")
    heads = patch_sweep(model, task, direction="noising", progress=False)
    edges = [(f"L2H{head}", "logits") for head in range(model.n_heads)]
    effects = edge_effects(model, task, edges, progress=False)
    np.testing.assert_allclose(effects.values, heads.values[2], rtol=0, atol=1e-5)


def test_shared_keys_may_be_named_by_any_of_their_heads():
    model, task = held("llama"), task_of()
    names = [("MLP0", "L1KV1.k"), ("MLP0", "L1H2.k"), ("MLP0", "L1H3.k"), ("MLP0", "L1H1.k")]
    effects = edge_effects(model, task, names, progress=False)
    assert effects.edges[0] == effects.edges[1] == effects.edges[2] != effects.edges[3]
    np.testing.assert_array_equal(effects.values[:1].repeat(2), effects.values[1:3])
    assert effects.to_frame().receiver.tolist() == ["L1KV1.k"] * 3 + ["L1KV0.k"]


def test_the_result_says_what_it_is():
    model, task = held("llama"), task_of()
    effects = edge_effects(model, task, [("MLP2", "logits"), ("embed", "L0H1.q")], metric="prob", progress=False)
    frame = effects.to_frame()
    assert list(frame) == ["sender", "receiver", "value", "low", "high"]
    assert ((frame.low <= frame.value) & (frame.value <= frame.high)).all()
    assert effects.provenance["direction"] == "noising"
    assert effects.provenance["metric"] == "prob"
    assert "destroys" in effects.sign
    assert not effects.samples.flags.writeable
    whole = effects.to_map()
    assert whole.of("MLP2", "logits") == pytest.approx(float(effects.values[0]))
    assert np.count_nonzero(~np.isnan(whole.values)) == 2


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([], "expected pairs such as"),
        ("logits", "expected pairs such as"),
        ([("L0H1",)], "expected a pair such as"),
        ([("L9H1", "logits")], "There is no sender 'L9H1'"),
        ([("L0H1", "L1H1")], "There is no receiver 'L1H1'"),
        ([("L1H1", "L1H2.q")], "L1H2.q does not read what L1H1 writes"),
    ],
)
def test_edges_that_are_none_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        # as a user's program calls it, without the type checks that tests switch on
        unwrap(edges_named)(wiring_of(held("llama")), edges)


def test_unknown_directions_and_pairs_that_do_not_differ_are_refused():
    task = task_of()
    with pytest.raises(ValueError, match="direction"):
        edge_effects(held("llama"), task, [("embed", "logits")], direction="both", progress=False)
    same = Task("same", task.clean_tokens, task.clean_tokens, task.lengths, task.answers, task.foils)
    with pytest.raises(ValueError, match="there is nothing to patch"):
        edge_effects(held("llama"), same, [("embed", "logits")], progress=False)
    with pytest.raises(ValueError, match="norms the sum of its heads"):
        edge_effects(held("gemma2"), task_of("gemma2"), [("embed", "logits")], progress=False)


@pytest.mark.real
def test_effects_of_the_real_model_are_those_of_runs_with_all_edges_but_one(smollm2):
    task = ioi(smollm2, n=2, seed=1)
    wiring, edges = wiring_of(smollm2), [("MLP29", "logits"), ("L20H0", "L23H3.q"), ("L13H2", "L24KV1.v")]
    effects = edge_effects(smollm2, task, edges, progress=False)
    kept = np.repeat(wiring.possible[None], len(edges) + 1, 0)
    for index, place in enumerate(places(wiring, edges)):
        kept[(index, *place)] = False
    for prompt in range(len(task)):
        own = task.subset([prompt])
        ground = ground_of_run(smollm2, own.clean_tokens, own.corrupted_tokens, 0)
        logits = run_edges(smollm2, ground, kept, Read(torch.stack([own.answers, own.foils], 1)))[:, 0]
        metric = logits[:, 0] - logits[:, 1]
        expected = (metric[-1] - metric[:-1]).numpy()
        np.testing.assert_allclose(effects.samples[:, prompt], expected, rtol=0, atol=2e-4)
