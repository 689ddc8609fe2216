"""The logit lens against the model's own output and its parts run by hand."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from end_tasks import own_difference, own_logits, ragged_task, scrambled
from headlens.analyses.logit_lens import logit_lens
from tiny_models import GENERATING, held


@pytest.mark.parametrize(("name", "run"), [*((name, "clean") for name in (*GENERATING, "llava")), ("opt", "corrupted")])
def test_the_last_layer_is_the_models_own_output(name, run):
    model, task = scrambled(name), ragged_task()
    found = logit_lens(model, task, run=run)
    np.testing.assert_allclose(found.samples[:, -1], own_difference(model, task, run), rtol=0, atol=2e-5)
    assert found.dims == ("layer",) and (np.abs(np.diff(found.samples)).max(0) > 0.01).all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_an_early_layer_goes_through_norm_unembedding_and_cap(name):
    model, task = scrambled(name), ragged_task()
    hf = model.hf
    norm = hf.transformer.ln_f if name == "gpt2" else hf.model.norm
    found = logit_lens(model, task).samples[:, 0]
    for prompt, end in enumerate(task.positions["END"]):
        with torch.no_grad():
            states = hf(task.clean_tokens[prompt : prompt + 1], output_hidden_states=True).hidden_states
            logits = hf.lm_head(norm(states[1][0, end]))
        if name == "gemma2":
            logits = 30 * torch.tanh(logits / 30)
        expected = logits[task.answers[prompt]] - logits[task.foils[prompt]]
        np.testing.assert_allclose(found[prompt], float(expected), rtol=0, atol=2e-5)


def test_several_metrics_of_the_last_layer_by_scipy():
    model, task = scrambled("qwen3"), ragged_task()
    logits, clean = (own_logits(model, task, run).double().numpy() for run in ("corrupted", "clean"))
    found = logit_lens(model, task, ["rank", "logit_diff", "prob", "kl"], run="corrupted")
    assert found.dims == ("layer", "metric") and found.coords["metric"] == ("rank", "logit_diff", "prob", "kl")
    rank, difference, probability, divergence = found.samples[:, -1].T
    np.testing.assert_allclose(difference, own_difference(model, task, "corrupted"), rtol=0, atol=2e-5)
    own = logits[np.arange(6), task.answers]
    np.testing.assert_allclose(probability, softmax(logits, 1)[np.arange(6), task.answers], rtol=1e-4)
    ranks = [sorted(row, reverse=True).index(value) for row, value in zip(logits, own, strict=True)]
    assert rank.tolist() == ranks and max(ranks) > 10
    np.testing.assert_allclose(divergence, entropy(softmax(clean, 1), softmax(logits, 1), axis=1), rtol=0, atol=1e-5)
    assert divergence.min() > 1e-3


def test_a_metric_of_the_users_own():
    def best(logits, task):
        return logits.amax(-1)

    model, task = scrambled("llama"), ragged_task()
    found = logit_lens(model, task, best)
    np.testing.assert_allclose(found.samples[:, -1], own_logits(model, task).amax(1).numpy(), rtol=0, atol=2e-5)
    assert found.units == "units of best" and found.provenance["metric"] == "best"


def test_the_map_says_what_it_is():
    task = ragged_task()
    found = logit_lens(scrambled("llama"), task)
    assert found.units == "logits (answer minus foil)" and found.clusters == task.templates
    assert (found.scale == 1).all() and found.samples.shape == (6, 3)
    assert found.provenance["metric"] == "logit_diff" and found.provenance["run"] == "clean"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"metric": "porb"}, "did you mean 'prob'"), ({"run": "dirty"}, "the runs of a task are clean and corrupted")],
)
def test_a_wrong_argument_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        logit_lens(scrambled("llama"), ragged_task(), **wrong)


def test_what_is_not_a_causal_language_model_is_refused():
    with pytest.raises(ValueError, match="is not a causal language model"):
        logit_lens(held("bert"), ragged_task())


@pytest.mark.real
def test_the_last_layer_of_the_real_model_is_its_output(smollm2):
    from headlens.analyses.tasks import ioi

    task = ioi(smollm2, n=5, seed=3)
    found, own = logit_lens(smollm2, task), own_difference(smollm2, task)
    np.testing.assert_allclose(found.samples[:, -1], own, rtol=0, atol=1e-4 * np.abs(own).max())
