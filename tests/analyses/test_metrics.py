"""Metrics against numbers worked out from whole forward passes, alone and several in one sweep."""

import numpy as np
import pytest
import torch

from headlens.analyses.metrics import METRICS, Metric, chosen, named
from headlens.analyses.patching import patch_sweep
from headlens.hooks.edits import Patch
from tiny_models import held
from tiny_tasks import ragged_task


def worked_out(logits, clean, answer, foil):
    """Every metric of one prompt's logits, by numpy."""
    p, q = (
        np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (logits.astype(np.float64), clean.astype(np.float64))
    )
    return {
        "logit_diff": logits[answer] - logits[foil],
        "prob": p[answer],
        "prob_diff": p[answer] - p[foil],
        "rank": float((p > p[answer]).sum()),
        "loss": -np.log(p[answer]),
        "kl": float((q * np.log(q / p)).sum()),
    }


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_all_metrics_in_one_sweep(direction):
    model, task = held("gpt2"), ragged_task().subset([0, 1, 3])
    found = patch_sweep(model, task, metric=[*METRICS], direction=direction, progress=False)
    assert found.dims == ("layer", "head", "metric") and found.coords["metric"] == tuple(METRICS)
    toward = 1 if direction == "denoising" else -1
    for prompt in range(3):
        length, pair = int(task.lengths[prompt]), (int(task.answers[prompt]), int(task.foils[prompt]))
        clean, corrupted = (rows[prompt, :length][None] for rows in (task.clean_tokens, task.corrupted_tokens))
        base, other = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
        with torch.no_grad():
            of_clean = model(clean)[0, -1].numpy()
            before, across = (worked_out(model(tokens)[0, -1].numpy(), of_clean, *pair) for tokens in (base, other))
            _, kept = model.record(other, names_filter="z")
            with model.edited(Patch("L1H2", kept)):
                after = worked_out(model(base)[0, -1].numpy(), of_clean, *pair)
        for index, name in enumerate(METRICS):
            want = toward * (after[name] - before[name])
            np.testing.assert_allclose(found.samples[prompt, 1, 2, index], want, rtol=0, atol=1e-4, err_msg=name)
            want = toward * (across[name] - before[name])
            np.testing.assert_allclose(found.scale[prompt, index], want, rtol=0, atol=1e-4, err_msg=name)
    alone = patch_sweep(model, task, metric="kl", direction=direction, progress=False)
    np.testing.assert_allclose(found.sel(metric="kl").values, alone.values, rtol=0, atol=1e-5)


def test_a_function_of_the_users_own(tmp_path):
    model, task = held("llama"), ragged_task()

    def centred(logits, task):
        answers = logits.gather(-1, task.answers[:, None].expand(*logits.shape[:-1], 1))[..., 0]
        return answers - logits.mean(-1)

    found = patch_sweep(model, task, metric=centred, run=tmp_path, progress=False)
    as_metric = Metric("centred", "logits", lambda logits, task, clean: centred(logits, task))
    both = patch_sweep(model, task, metric=[as_metric, "logit_diff"], progress=False)
    assert found.provenance["metric"] == "centred" and found.provenance["metric_keys"][0]
    np.testing.assert_allclose(both.sel(metric="centred").samples, found.samples, rtol=0, atol=1e-6)

    def centred(logits, task):
        return logits[..., 0]

    with pytest.raises(ValueError, match="holds a run of something else"):
        patch_sweep(model, task, metric=centred, run=tmp_path, progress=False)


def test_a_function_of_the_wrong_shape_is_told_so():
    with pytest.raises(ValueError, match="'whole' returned shape .* expected one number for each run and prompt"):

        def whole(logits, task):
            return logits

        patch_sweep(held("llama"), ragged_task(), metric=whole, progress=False)


@pytest.mark.parametrize("wrong", ["logit_dif", [], ["kl", "kl"]])
def test_a_wrong_metric_is_named(wrong):
    with pytest.raises(ValueError, match="did you mean 'logit_diff'|expected at least one, each once"):
        chosen(wrong)


def test_sets_of_answers():
    task = ragged_task().subset([0, 1])
    sets = {"answer_sets": ((5, 7), (6,)), "foil_sets": ((50, 60, 61), (51, 52))}
    wide = type(task)("wide", task.clean_tokens, task.corrupted_tokens, task.lengths, task.answers, task.foils, **sets)
    logits = torch.randn(4, 2, 120, generator=torch.Generator().manual_seed(0))
    got = named("prob_diff").compute(logits, wide, logits[0])
    p = logits.double().softmax(-1)
    for prompt in range(2):
        right, wrong = (p[:, prompt, list(sets[key][prompt])].sum(-1) for key in ("answer_sets", "foil_sets"))
        torch.testing.assert_close(got[:, prompt].double(), right - wrong, rtol=0, atol=1e-6)
