"""Sinks of many prompts: a few at a time they are what one run of all of them finds."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from headlens.analyses import watched_run
from headlens.analyses.sinks import find_sinks
from headlens.hooks.model import wrap
from headlens.hooks.sink_rule import MODES
from tiny_models import held, inputs_for, tiny

LOOSE = {"alpha": 1.4, "min_rows": 3, "min_share": 0.15}
COUNT, LENGTH = 5, 18
TOKEN, DIM = 77, 5


@pytest.fixture(scope="module")
def model():
    """Make a model that has a massive activation wherever one token stands."""
    hf = tiny("llama")
    with torch.no_grad():
        hf.get_input_embeddings().weight[TOKEN, DIM] = -20_000
    return wrap(hf)


def padded(side):
    """Take prompts of 18, 11, 18, 7 and 14 tokens, of which the second and the last have that token."""
    ids = inputs_for("llama", COUNT, LENGTH)["input_ids"]
    ids[ids == TOKEN] = TOKEN + 1
    ids[1, 9] = ids[4, 10] = ids[4, 12] = TOKEN
    mask = torch.arange(LENGTH) < torch.tensor([18, 11, 18, 7, 14])[:, None]
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    return {"input_ids": ids, "attention_mask": mask.long()}


@pytest.fixture
def runs(monkeypatch):
    """Note how many prompts each run is of."""
    seen, original = [], watched_run.WatchedRun.__call__

    def noting(self, acts):
        seen.append(len(next(iter(self.inputs.values()))))
        return original(self, acts)

    monkeypatch.setattr(watched_run.WatchedRun, "__call__", noting)
    return seen


def assert_alike(found, whole):
    for name in ("share", "received", "times", "rows"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-4, atol=1e-6, err_msg=name)
        assert getattr(found, name).dtype == np.float32 and not getattr(found, name).flags.writeable
    assert np.array_equal(found.flagged, whole.flagged) and 0 < found.flagged.mean() < 0.7
    np.testing.assert_allclose(found.massive.peak, whole.massive.peak, rtol=1e-3)
    places = [one[:4] for one in found.massive.found]
    assert places == [one[:4] for one in whole.massive.found] and places == sorted(places)
    assert all(type(number) is int for place in places for number in place)
    np.testing.assert_allclose([one[4:] for one in found.massive.found], [one[4:] for one in whole.massive.found], 1e-4)
    assert found.texts == whole.texts and torch.equal(found.real, whole.real)
    assert found.provenance == whole.provenance
    assert found.to_frame()["label"].tolist() == whole.to_frame()["label"].tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (4, [4, 1]), (9, [5])])
def test_a_few_prompts_at_a_time_or_all_in_one_run(model, runs, batch, sizes, side, mode):
    inputs = padded(side)
    whole = find_sinks(model, inputs, mode, **LOOSE, batch=COUNT)
    massive = {(one.prompt, one.pos) for one in whole.massive.found}
    assert massive == ({(1, 8), (4, 7), (4, 5)} if side == "left" else {(1, 9), (4, 10), (4, 12)})
    assert runs == [COUNT]
    runs.clear()
    assert_alike(find_sinks(model, inputs, mode, **LOOSE, batch=batch), whole)
    assert runs == sizes


@pytest.mark.parametrize("name", ["vit", "llava", "t5", "gpt_oss"])
def test_inputs_of_every_kind_are_cut(name, runs):
    inputs = inputs_for(name, batch=3)
    rule = {"mode": "prefill_column", "alpha": 1.2, "min_rows": 2, "min_share": 0.1}
    whole = find_sinks(held(name), inputs, **rule, batch=3)
    assert_alike(find_sinks(held(name), inputs, **rule, batch=2), whole)
    assert runs == [3, 2, 1]


def test_without_a_batch_so_many_tokens_run_together(model, runs, monkeypatch):
    monkeypatch.setattr(watched_run, "_TOGETHER", 2 * LENGTH + 1)
    found = find_sinks(model, padded("right"), **LOOSE)
    assert runs == [2, 2, 1]
    assert_alike(found, find_sinks(model, padded("right"), **LOOSE, batch=COUNT))


def test_parts_do_not_share_a_cache(model):
    ids = padded("right")["input_ids"]
    empty = {"input_ids": ids, "past_key_values": DynamicCache(config=model.hf.config)}
    assert_alike(find_sinks(model, empty, **LOOSE, batch=2), find_sinks(model, ids, **LOOSE, batch=COUNT))
    assert empty["past_key_values"].get_seq_length() == 0


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_a_prompt_or_more(model, batch):
    with pytest.raises(ValueError, match=f"batch={batch} was given; expected how many prompts run at a time"):
        find_sinks(model, padded("right"), batch=batch)
