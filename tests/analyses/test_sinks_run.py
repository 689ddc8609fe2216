"""Sinks found by the batch, beside those of one padded run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headlens.analyses.prompts import prompts_of_task, prompts_of_windows
from headlens.analyses.sinks import find_sinks
from headlens.analyses.sinks_run import sinks_run
from headlens.hooks.model import wrap
from headlens.hooks.sink_rule import SinkRule
from tiny_models import held, tiny
from tiny_tasks import ragged_task

TOKEN, DIM, VALUE = 77, 5, -20_000
RULE = {"mode": "causal_column", "alpha": 1.3, "min_rows": 2, "min_share": 0.1, "first": True}


@pytest.fixture(scope="module")
def task():
    """Take prompts of three lengths, of which two have one token."""
    task = ragged_task()
    task.clean_tokens[task.clean_tokens == TOKEN] = TOKEN + 1
    task.clean_tokens[1, 2] = task.clean_tokens[5, 9] = TOKEN
    return task


@pytest.fixture(scope="module")
def model():
    """Make a model that has a massive activation wherever that token stands."""
    hf = tiny("llama")
    with torch.no_grad():
        hf.get_input_embeddings().weight[TOKEN, DIM] = VALUE
    return wrap(hf)


@pytest.mark.parametrize("kept", [False, True])
def test_batches_find_what_one_padded_run_finds(model, task, kept, tmp_path):
    prompts, folder = prompts_of_task(model, task), tmp_path / "run" if kept else None
    found = sinks_run(model, prompts, SinkRule(**RULE), run=folder, progress=False)
    if kept:
        # the second time all of it is read back
        found = sinks_run(model, prompts, SinkRule(**RULE), run=folder, progress=False)
    real = torch.arange(12) < task.lengths[:, None]
    whole = find_sinks(model, {"input_ids": task.clean_tokens, "attention_mask": real.long()}, **RULE)
    for name in ("share", "received", "times", "rows"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-4, atol=1e-6, err_msg=name)
    assert 0 < found.flagged.sum() < 3 * 4 * int(real.sum())
    np.testing.assert_allclose(found.massive.peak, whole.massive.peak, rtol=1e-4)
    places = [each[:4] for each in found.massive.found]
    assert places == [each[:4] for each in whole.massive.found] and {(at[0], at[2]) for at in places} == {
        (1, 2),
        (5, 9),
    }
    assert all(type(number) is int for place in places for number in place)
    np.testing.assert_allclose(found.massive.found, whole.massive.found, rtol=1e-4)
    assert found.to_frame()["label"].tolist() == whole.to_frame()["label"].tolist()
    assert found.massive.group().dims == (DIM,) and found.provenance["task_hash"] == task.hash
    assert not found.share.flags.writeable


def test_a_folder_of_another_rule_is_refused(model, task, tmp_path):
    prompts = prompts_of_task(model, task)
    sinks_run(model, prompts, SinkRule(**RULE), run=tmp_path, progress=False)
    with pytest.raises(ValueError, match="rule.alpha: 1.3 there, 5.0 now"):
        sinks_run(model, prompts, SinkRule(**{**RULE, "alpha": 5.0}), run=tmp_path, progress=False)


def test_counts_and_mass_know_which_prompts_share_a_template(model, task):
    templates = tuple("aabbcc")
    found = sinks_run(model, prompts_of_task(model, replace(task, templates=templates)), progress=False)
    assert found.counts().clusters == found.mass().clusters == templates


def test_prompts_longer_than_the_models_positions_leave_no_folder(tmp_path):
    prompts = prompts_of_windows(held("gpt2"), torch.full((2, 65), 7), "mine", {})
    with pytest.raises(ValueError, match="65 tokens .* 64 positions"):
        sinks_run(held("gpt2"), prompts, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
