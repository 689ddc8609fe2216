"""The sweep against TransformerLens's own patching on the same weights, and what a run folder promises."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from headlens.analyses import chunking, sweeping
from headlens.analyses.patching import patch_sweep
from headlens.analyses.tasks import Task
from headlens.hooks.model import wrap
from tiny_models import held, tiny
from tiny_tasks import peer_effects, ragged_task, task_of

PEER = ("gpt2", "gpt_neox", "llama", "qwen3", "gemma2", "gemma3", "opt", "gpt_oss")


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", PEER)
def test_every_head_equals_transformer_lens(name, direction):
    model, task = held(name), task_of(name)
    found = patch_sweep(model, task, direction=direction, progress=False)
    assert found.provenance["method"] == "replay"
    peer = peer_effects(model, task, direction, "get_act_patch_attn_head_out_all_pos")
    effects = found.samples.mean(0)
    np.testing.assert_allclose(effects, peer, rtol=0, atol=1e-4)
    assert np.abs(effects).max() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_every_position_equals_transformer_lens(name):
    model, task = held(name), task_of(name)
    found = patch_sweep(model, task, axes=("layer", "head", "pos"), progress=False)
    peer = peer_effects(model, task, "denoising", "get_act_patch_attn_head_out_by_pos")
    effects = found.samples.mean(0)
    np.testing.assert_allclose(effects, peer.transpose(0, 2, 1), rtol=0, atol=1e-4)
    assert (effects[:, :, :4] == 0).all() and np.abs(effects[:, :, 4:]).max() > 0.1


@pytest.mark.parametrize("memory", ["1GiB", 1])
def test_prompts_of_many_lengths_are_swept_as_if_each_were_alone(memory):
    model, task = held("gemma3"), ragged_task()
    found = patch_sweep(model, task, axes=("layer", "head", "pos"), memory=memory, progress=False)
    for prompt in [0, 1, 3, 4, 5]:
        length = int(task.lengths[prompt])
        alone = patch_sweep(model, task.subset([prompt]), axes=("layer", "head", "pos"), progress=False)
        np.testing.assert_allclose(found.samples[prompt, ..., :length], alone.samples[0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.scale[prompt], alone.scale[0], rtol=0, atol=1e-4)
        assert np.isnan(found.samples[prompt, ..., length:]).all()
    assert (found.samples[2] == 0).all() and found.scale[2] == 0


def test_per_prompt_effects_make_the_values():
    found = patch_sweep(held("llama"), task_of(), progress=False)
    np.testing.assert_allclose(found.values, found.samples.mean(0) / found.scale.mean(), rtol=1e-6)
    assert found.samples.shape == (5, 3, 4) and found.dims == ("layer", "head")


def test_a_task_without_a_difference_is_refused():
    model, task = held("llama"), task_of()
    same = Task("same", task.clean_tokens, task.clean_tokens, task.lengths, task.answers, task.foils)
    with pytest.raises(ValueError, match="No pair of task 'same' differs"):
        patch_sweep(model, same, progress=False)


def test_a_model_that_cannot_be_replayed_is_swept_by_plain_forwards(monkeypatch):
    model, task = held("llama"), task_of()
    replayed = patch_sweep(model, task, progress=False)
    monkeypatch.setattr(sweeping, "why_not_replayed", lambda *args: "the test says so")
    plain = patch_sweep(model, task, progress=False)
    assert plain.provenance["method"] == "plain forwards, since the test says so"
    np.testing.assert_allclose(plain.samples, replayed.samples, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "t5", "vit"])
def test_what_is_not_a_causal_language_model_is_refused(name):
    with pytest.raises(ValueError, match="is not a causal language model"):
        patch_sweep(held(name), task_of(), progress=False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"site": "zz"}, "zz"),
        (
            {"site": "mlp_out", "axes": ("layer", "head")},
            "'layer,head' are not available at 'mlp_out'; its axes are layer",
        ),
        ({"axes": ("head",)}, "Axes 'head' are not available at 'z'; its axes are layer,head, layer,head,pos"),
        ({"axes": ("heads",)}, "need heads="),
        ({"source": "median"}, "give other, zero, mean, mean_positional or resample"),
        ({"site": "pattern", "source": "mean"}, "give mean_positional"),
        ({"positions": "S2"}, "has no position 'S2'"),
        ({"positions": 9}, "positions 0 to 8"),
        ({"heads": ["L3H0"]}, "L3H0 does not exist"),
        ({"metric": "logit_dif"}, "did you mean 'logit_diff'"),
        ({"direction": "sideways"}, "give denoising or noising"),
        ({"memory": "much"}, "'much' is not a size"),
    ],
)
def test_a_wrong_argument_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        patch_sweep(held("llama"), task_of(), progress=False, **wrong)


def test_a_task_of_another_vocabulary_is_refused():
    task = task_of()
    foreign = Task("big", task.clean_tokens, task.corrupted_tokens, task.lengths, task.answers + 5000, task.foils)
    with pytest.raises(ValueError, match="vocabulary is 0 to 119"):
        patch_sweep(held("llama"), foreign, progress=False)


def test_a_metric_that_does_not_tell_clean_from_corrupted_is_refused():
    task, blind = task_of(), tiny("llama")
    with torch.no_grad():
        blind.lm_head.weight[task.answers] = blind.lm_head.weight[task.foils]
    with pytest.raises(ValueError, match="nothing to restore or destroy"):
        patch_sweep(wrap(blind), task, progress=False)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_a_resumed_run_computes_only_what_is_missing_and_ends_byte_identical(tmp_path, monkeypatch):
    model, task = held("llama"), ragged_task()
    monkeypatch.setattr(chunking, "ROWS", 1)
    patch_sweep(model, task, run=tmp_path / "whole", progress=False)
    original, bands = sweeping._band, []

    def interrupted(engine, band, *rest):
        if len(bands) == 5:
            raise KeyboardInterrupt
        bands.append(band)
        return original(engine, band, *rest)

    monkeypatch.setattr(sweeping, "_band", interrupted)
    with pytest.raises(KeyboardInterrupt):
        patch_sweep(model, task, run=tmp_path / "halved", progress=False)
    kept = files(tmp_path / "halved")
    assert len(kept) == 1 + 5
    monkeypatch.setattr(
        sweeping, "_band", lambda engine, band, *rest: (bands.append(band), original(engine, band, *rest))[1]
    )
    patch_sweep(model, task, run=tmp_path / "halved", progress=False)
    whole = files(tmp_path / "whole")
    assert len(bands) == len(whole) - 2
    assert files(tmp_path / "halved") == whole
    assert kept.items() <= whole.items()


def test_a_finished_run_is_read_not_computed(tmp_path, monkeypatch):
    model, task = held("llama"), task_of()
    first = patch_sweep(model, task, run=tmp_path, progress=False)
    monkeypatch.setattr(sweeping, "_band", lambda *args: pytest.fail("a finished chunk was computed again"))
    second = patch_sweep(model, task, run=tmp_path, progress=False)
    assert np.array_equal(first.values, second.values)


def test_another_sweep_is_not_mixed_in(tmp_path):
    model, task = held("llama"), task_of()
    patch_sweep(model, task, run=tmp_path, progress=False)
    before = files(tmp_path)
    with pytest.raises(
        ValueError, match=r"holds a run of something else \(direction: 'denoising' there, 'noising' now"
    ):
        patch_sweep(model, task, direction="noising", run=tmp_path, progress=False)
    with pytest.raises(ValueError, match="weights_hash"):
        patch_sweep(wrap(tiny("llama", seed=1), name=model.name), task, run=tmp_path, progress=False)
    with pytest.raises(ValueError, match="task_hash"):
        patch_sweep(model, task.subset([1, 0, 2]), run=tmp_path, progress=False)
    monkey = patch_sweep(model, task, direction="noising", run=tmp_path / "other", progress=False)
    assert monkey.provenance["direction"] == "noising"
    assert {key: value for key, value in files(tmp_path).items() if not key.startswith("other")} == before
    afresh = patch_sweep(model, task, direction="noising", run=tmp_path, resume=False, progress=False)
    assert np.array_equal(afresh.values, monkey.values)


KILLED = """
import os, signal, sys
from headlens.analyses import chunking, patching, sweeping
from tiny_tasks import ragged_task
from tiny_models import held

done, original, chunking.ROWS = [], sweeping._band, 1
def band(*args):
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(1)
    return original(*args)
sweeping._band = band
patching.patch_sweep(held("llama"), ragged_task(), run=sys.argv[1], progress=False)
"""


@pytest.mark.slow
def test_kill_9_loses_only_the_chunk_in_flight(tmp_path, request, monkeypatch):
    paths = [str(request.path.parent), str(request.path.parents[1] / "support")]
    script = f"import sys; sys.path[:0] = {paths!r}\n{KILLED}"
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed")], cwd=tmp_path, check=False)
    assert died.returncode == -9
    assert len(list((tmp_path / "killed" / "chunks").iterdir())) == 4
    model, task = held("llama"), ragged_task()
    monkeypatch.setattr(chunking, "ROWS", 1)
    patch_sweep(model, task, run=tmp_path / "killed", progress=False)
    patch_sweep(model, task, run=tmp_path / "whole", progress=False)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
