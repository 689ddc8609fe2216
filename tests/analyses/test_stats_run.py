"""Prompts of any lengths read by the batch, and several maps joined to one."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.prompts import prompts_of_task, prompts_of_windows
from headlens.analyses.sinks import find_sinks
from headlens.analyses.stats_run import as_one_map, stats_run
from tiny_models import held, inputs_for
from tiny_tasks import ragged_task


def test_every_prompt_is_in_one_batch_of_its_own_length():
    task = ragged_task()
    prompts = prompts_of_task(held("llama"), task)
    batches = [*prompts.batches()]
    assert sorted(at for together, _ in batches for at in together) == [*range(6)]
    assert all(task.lengths[together].tolist() == [length] * len(together) for together, length in batches)
    tokens, lengths = torch.zeros(9, 700, dtype=torch.long), torch.tensor([700] * 5 + [3] * 4)
    many = replace(prompts, tokens=tokens, lengths=lengths, other=None)
    assert [(together, length) for together, length in many.batches()] == [
        ([5, 6, 7, 8], 3),
        ([0, 1], 700),
        ([2, 3], 700),
        ([4], 700),
    ]


def test_a_run_measures_each_prompt_as_if_it_were_alone():
    model, task = held("llama"), replace(ragged_task(), templates=tuple("abcabc"))
    group = {"late": [3, 5]}
    found = stats_run(model, prompts_of_task(model, task), ["self", "divergence"], group, progress=False)
    assert found.coords["metric"] == ("self", "divergence", "late")
    for prompt, length in enumerate(task.lengths.tolist()):
        clean, corrupted = (row[prompt : prompt + 1, :length] for row in (task.clean_tokens, task.corrupted_tokens))
        alone = head_stats(model, clean, ["self", "divergence"], groups=group, other=corrupted, progress=False)
        for at, each in enumerate(alone.values()):
            np.testing.assert_allclose(found.samples[prompt, ..., at], each.values, rtol=0, atol=1e-6)
    assert found.clusters == task.templates


def test_joined_maps_are_what_they_were():
    maps = head_stats(held("llama"), inputs_for("llama", batch=3)["input_ids"], ["entropy", "distance"], progress=False)
    joined = as_one_map(maps)
    for name, each in maps.items():
        part = joined.sel(metric=name)
        np.testing.assert_array_equal(part.values, each.values)
        np.testing.assert_array_equal(part.samples, each.samples)
        assert joined.provenance["metrics"][name] == {"units": each.units, "sign": each.sign}
    assert joined.units == "entropy: nats; distance: tokens" and "statistic" not in joined.provenance
    assert joined.provenance["tokens_hash"] == maps["entropy"].provenance["tokens_hash"]


def test_unlike_maps_are_not_joined():
    model, ids = held("llama"), inputs_for("llama", batch=3)["input_ids"]
    maps = head_stats(model, ids, ["entropy", "received"], progress=False)
    with pytest.raises(ValueError, match="'received' is a map of .*, which does not go with"):
        as_one_map(maps)
    fewer = head_stats(model, ids[:2], "self", progress=False)
    with pytest.raises(ValueError, match="join like with like"):
        as_one_map({"entropy": maps["entropy"], **fewer})


def test_windows_have_nothing_to_compare_them_with():
    model = held("llama")
    prompts = prompts_of_windows(model, inputs_for("llama")["input_ids"], "mine", {"n": 2})
    with pytest.raises(ValueError, match="'mine' has no others"):
        stats_run(model, prompts, "divergence", progress=False)
    with pytest.raises(ValueError, match="'top_key' is a number for each token"):
        stats_run(model, prompts, ["top_key", "self"], progress=False)


def test_each_prompts_own_positions_go_with_it():
    model, task = held("llama"), ragged_task()
    prompts = prompts_of_task(model, task)
    own = torch.arange(6)[:, None] % 4 + torch.tensor([0, 2])
    found = stats_run(model, prompts, (), {"own": own, "own or first": [own, "first"]}, progress=False)
    for prompt, length in enumerate(task.lengths.tolist()):
        _, cache = model.record(task.clean_tokens[prompt : prompt + 1, :length], names_filter="pattern")
        rows = torch.cat([*cache.values()])[:, :, 1:]
        for at, keys in enumerate([own[prompt].tolist(), sorted({0, *own[prompt].tolist()})]):
            expected = rows[..., keys].sum(-1).mean(-1)
            np.testing.assert_allclose(found.samples[prompt, ..., at], expected, rtol=0, atol=1e-5)
    assert len([*prompts.batches()]) > 1 and "Positions([[0, 2], [1, 3]" in found.provenance["groups"]["own"]


def test_a_folder_knows_every_position_and_refuses_functions(tmp_path):
    model = held("llama")
    prompts = prompts_of_windows(model, inputs_for("llama")["input_ids"], "mine", {})
    many = torch.arange(1200)
    measure = partial(stats_run, model, prompts, (), run=tmp_path / "run", progress=False)
    measure({"mine": many})
    with pytest.raises(ValueError, match="groups.mine: 'Positions"):
        measure({"mine": torch.where(many == 600, 601, many)})
    for group in (lambda block: block.keys == 0, ["first", lambda block: block.keys == 3]):
        with pytest.raises(ValueError, match="'mine' is chosen by a function"):
            stats_run(model, prompts, (), {"mine": group}, run=tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_the_very_sinks_of_another_run_are_refused_before_anything_is_read():
    model, task = held("llama"), ragged_task()
    fixed = find_sinks(model, task.clean_tokens, alpha=1.4, min_rows=3).fixed()
    for group in (fixed, ["first", fixed]):
        with pytest.raises(ValueError, match="'s' holds the very sinks of one run.*give the sinks themselves"):
            stats_run(model, prompts_of_task(model, task), (), {"s": group}, progress=False)


def test_prompts_longer_than_the_models_positions_leave_no_folder(tmp_path):
    model = held("gpt2")
    prompts = prompts_of_windows(model, torch.full((2, 65), 7), "mine", {})
    with pytest.raises(ValueError, match="65 tokens .* 64 positions"):
        stats_run(model, prompts, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
