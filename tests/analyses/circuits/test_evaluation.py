"""What a circuit keeps, against plain runs with everything else ablated, and on a circuit that is known."""

import numpy as np
import pytest
import torch

from headlens.analyses.circuits import ablation
from headlens.analyses.circuits.ablation import ABLATIONS, Ablation
from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.circuits.evaluation import evaluate
from headlens.analyses.circuits.random_circuits import random_circuits
from headlens.analyses.metrics import named
from headlens.analyses.run_metrics import run_metrics
from headlens.hooks.edits import Ablate
from headlens.hooks.sites import parse_heads
from headlens.hooks.wiring import wiring_of
from planted_circuit import HEADS_INSIDE, planted_model, planted_task
from tiny_models import held
from tiny_tasks import ragged_task, task_of


def logit_diff(model, task, tokens):
    """Of each prompt alone, cut at its END."""
    found = []
    for prompt, end in enumerate(task.positions["END"].tolist()):
        with torch.no_grad():
            logits = model.hf(input_ids=tokens[prompt : prompt + 1, : end + 1]).logits[0, -1]
        found.append(float(logits[task.answers[prompt]] - logits[task.foils[prompt]]))
    return np.array(found)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_whole_runs_are_the_models_own(name):
    model, task = held(name), ragged_task()
    clean, corrupted = run_metrics(model, task, named("logit_diff"))
    assert np.allclose(clean, logit_diff(model, task, task.clean_tokens), atol=1e-4)
    assert np.allclose(corrupted, logit_diff(model, task, task.corrupted_tokens), atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_a_circuit_of_heads_is_the_model_with_its_other_heads_ablated(name):
    model, task, inside = held(name), ragged_task(), ["L0H1", "L1H0", "L1H3"]
    circuit = Circuit.of_nodes(wiring_of(model), inside)
    others = {*parse_heads("all", model.n_layers, model.n_heads)} - {*circuit.heads}
    with model.edited(*(Ablate(head, how="zero") for head in others)):
        expected = logit_diff(model, task, task.clean_tokens)
    found = Ablation(model, task, named("logit_diff"), "zero").of([circuit])
    assert np.allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize("source", ABLATIONS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_edges_among_heads_keep_what_the_heads_keep(name, source):
    """Two engines: ablated heads by replay, and edge by edge. Edges cut nothing else where all others are left."""
    model, task = held(name), task_of(name, prompts=6)
    circuit = Circuit.of_nodes(wiring_of(model), ["L0H1", "L1H0", "L1H2"])
    ablated = Ablation(model, task, named("logit_diff"), source)
    by_heads, by_edges = ablated.of([circuit]), ablated._of_edges([circuit], False)
    assert np.abs(by_heads - ablated.whole).max() > 1e-2
    assert np.allclose(by_heads, by_edges, atol=2e-4)


def test_circuits_that_do_not_fit_together_run_apart(monkeypatch):
    model, task = held("llama"), task_of("llama", prompts=4)
    wiring, random = wiring_of(model), np.random.default_rng(2)
    circuits = [Circuit(wiring, wiring.possible & (random.random(wiring.possible.shape) < 0.4)) for _ in range(5)]
    ablated = Ablation(model, task, named("logit_diff"))
    together, real, passes = ablated.of(circuits), ablation.run_edges, []
    monkeypatch.setattr(ablation, "run_edges", lambda *args: passes.append(len(args[2])) or real(*args))
    monkeypatch.setattr(ablation, "_BYTES", 2 * len(wiring.senders) * ablated._grounds[0].ground.embedding.nbytes)
    assert np.allclose(ablated.of(circuits), together, atol=1e-5)
    assert passes == [2, 2, 1]


def test_prompts_that_do_not_differ_lose_nothing():
    model, task = held("llama"), ragged_task()
    ablated = Ablation(model, task, named("logit_diff"))
    nothing = Circuit(wiring_of(model), np.zeros_like(wiring_of(model).possible))
    found = ablated.of([nothing])[0]
    same = (task.clean_tokens == task.corrupted_tokens).all(1).numpy()
    assert same.sum() == 1 and np.array_equal(found[same], ablated.whole[same])
    _, corrupted = run_metrics(model, task, named("logit_diff"))
    assert np.allclose(found[~same], corrupted[~same], atol=1e-4)


@pytest.fixture(scope="module")
def planted():
    return planted_model(), planted_task()


def test_the_planted_circuit_is_faithful_complete_and_minimal(planted):
    model, task = planted
    report = Circuit.of_nodes(wiring_of(model), HEADS_INSIDE).evaluate(model, task, n_random=4, halves=3)
    assert report.faithfulness == pytest.approx(1, abs=0.01)
    assert report.left_outside == pytest.approx(0, abs=0.01)
    assert report.incompleteness.max() < 0.01
    frame = report.minimality()
    assert {*frame.node} == HEADS_INSIDE and (frame.adds > 0.4).all() and (frame.low > 0.2).all()
    assert len(report.null) == 4 and report.null_faithfulness.max() < 0.7 and report.p_value == pytest.approx(1 / 5)
    assert "keeps 100% of logit_diff" in report.described()


def test_a_circuit_with_a_wrong_head_is_not(planted):
    model, task = planted
    report = evaluate(Circuit.of_nodes(wiring_of(model), ["L0H1", "L1H1"]), model, task, n_random=0, halves=8)
    assert report.faithfulness < 0.7 and report.left_outside < 0.5
    frame = report.minimality().set_index("node")
    assert abs(frame.adds["L0H1"]) < 0.01 < frame.adds["L1H1"]


def test_figures_follow_from_the_definitions(planted):
    model, task = planted
    circuit = Circuit.of_nodes(wiring_of(model), ["L1H1", "L0H2"])
    report = evaluate(circuit, model, task, "mean", n_random=3, halves=2, seed=4)
    ablated = Ablation(model, task, named("logit_diff"), "mean")

    def value(heads):
        return ablated.of([Circuit.of_nodes(wiring_of(model), heads)]).mean()

    whole, empty = ablated.whole.mean(), value(())
    assert report.faithfulness == pytest.approx((value(["L1H1", "L0H2"]) - empty) / (whole - empty), abs=1e-5)
    rest = [head for head in map(str, parse_heads("all", 2, 3)) if head not in ("L1H1", "L0H2")]
    assert report.left_outside == pytest.approx((value(rest) - empty) / (whole - empty), abs=1e-5)
    adds = report.minimality().set_index("node").adds
    assert adds["L1H1"] == pytest.approx(report.faithfulness - (value(["L0H2"]) - empty) / (whole - empty), abs=1e-5)
    interval = report.ci()
    assert interval.low <= report.faithfulness <= interval.high


def test_random_circuits_have_the_same_size():
    wiring = wiring_of(held("llama"))
    circuit = Circuit.of_nodes(wiring, ["L0H1", "L1H0", "L1H3"])
    for drawn in random_circuits(circuit, 5):
        assert [head.layer for head in drawn.heads] == [0, 1, 1] and drawn != circuit
    kept = wiring.possible & (np.random.default_rng(1).random(wiring.possible.shape) < 0.3)
    edges = Circuit(wiring, kept)
    for drawn in random_circuits(edges, 3):
        assert drawn.n_edges == edges.n_edges and drawn != edges
        # as many into the queries of the second layer
        second = [at for at, node in enumerate(wiring.receivers) if node.kind == "q" and node.layer == 1]
        assert drawn.kept[:, second].sum() == edges.kept[:, second].sum()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"ablation": "median"}, "other, mean"), ({"metric": "logit_dif"}, "logit_diff")],
    ids=["ablation", "metric"],
)
def test_slips_are_named(planted, options, words):
    model, task = planted
    with pytest.raises(ValueError, match=words):
        evaluate(Circuit.of_nodes(wiring_of(model), HEADS_INSIDE), model, task, **options)


def test_circuits_of_other_models_are_refused(planted):
    model, task = planted
    with pytest.raises(ValueError, match="other layers and heads"):
        evaluate(Circuit.of_nodes(wiring_of(held("llama")), ["L0H0"]), model, task)
