"""Attribution against derivatives of plain edited runs, and against the sweep where it must be exact."""

import numpy as np
import pytest
import torch

from headlens.analyses import attribution
from headlens.analyses.attribution import attribute
from headlens.analyses.patching import patch_sweep
from headlens.hooks.edits import Call
from headlens.hooks.sites import SITE_AXES, Site
from tiny_models import held
from tiny_tasks import ragged_task, task_of

SITES = tuple(SITE_AXES)


def slope(model, task, prompt, site, layer, heads, direction="denoising", step=2e-3):
    """How one prompt's answer-minus-foil difference moves along (other - base) at one place, by two edited runs."""
    length = int(task.lengths[prompt])
    clean, corrupted = (tokens[prompt : prompt + 1, :length] for tokens in (task.clean_tokens, task.corrupted_tokens))
    base, other = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    name = str(Site(site, layer))
    with torch.no_grad():
        there, across = (model.record(tokens, names_filter=[name])[1][name] for tokens in (base, other))
    towards = torch.where(there == -torch.inf, 0, across - there)
    if heads is not None:
        axis = next(i for i, axis in enumerate(SITE_AXES[site]) if axis.endswith("head"))
        kept = torch.zeros_like(towards)
        kept.index_copy_(axis, torch.tensor(heads), towards.index_select(axis, torch.tensor(heads)))
        towards = kept
    ends = []
    for sign in (1, -1):
        with torch.no_grad(), model.edited(Call(name, lambda tensor, hook, sign=sign: tensor + sign * step * towards)):
            last = model(base)[0, -1]
        ends.append(float(last[task.answers[prompt]] - last[task.foils[prompt]]))
    return (ends[0] - ends[1]) / (2 * step) * (1 if direction == "denoising" else -1)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_one_step_is_the_slope_of_the_metric(name, site, direction):
    model, task = held(name), ragged_task().subset([0, 1, 3])
    by_head = any(axis.endswith("head") for axis in SITE_AXES[site])
    found = attribute(model, task, site=site, axes=("layer", "head") if by_head else ("layer",), direction=direction)
    for prompt, layer in ((0, 0), (1, 1), (2, 2)):
        got = found.samples[prompt, layer, 1] if by_head else found.samples[prompt, layer]
        want = slope(model, task, prompt, site, layer, [1] if by_head else None, direction)
        np.testing.assert_allclose(got, want, rtol=0.02, atol=1e-3)
    assert np.abs(found.samples).max() > 0.04


@pytest.mark.parametrize("site", ["z", "v", "pattern", "resid_pre"])
def test_positions_add_up_to_the_whole(site):
    model, task = held("gpt2"), ragged_task()
    by_head = ("layer", "head") if site in ("z", "v", "pattern") else ("layer",)
    whole = attribute(model, task, site=site, axes=by_head, steps=3)
    parts = attribute(model, task, site=site, axes=(*by_head, "pos"), steps=3)
    np.testing.assert_allclose(np.nansum(parts.samples, -1), whole.samples, rtol=0, atol=1e-5)
    spans = attribute(model, task, site=site, axes=(*by_head, "pos"), positions=["END", "0..3", 4])
    ends = task.lengths.numpy() - 1
    single = attribute(model, task, site=site, axes=(*by_head, "pos"))
    np.testing.assert_allclose(spans.samples[..., 0], single.samples[np.arange(6), ..., ends], rtol=0, atol=1e-6)
    np.testing.assert_allclose(spans.samples[..., 1], single.samples[..., :4].sum(-1), rtol=0, atol=1e-5)


def test_entries_of_patterns_add_up_to_their_rows():
    model, task = held("llama"), task_of(prompts=2)
    rows = attribute(model, task, site="pattern", axes=("layer", "head", "pos"))
    entries = attribute(model, task, site="pattern", axes=("layer", "head", "query", "key"))
    assert np.isnan(entries.samples[0, 0, 0, 3, 5]) and entries.samples[0, 0, 0, 5, 3] != 0
    np.testing.assert_allclose(np.nansum(entries.samples, -1), rows.samples, rtol=0, atol=1e-5)


def test_many_steps_add_up_to_the_whole_difference():
    """The input's own share of integrated gradients is the whole difference between the runs (completeness)."""
    model, task = held("llama"), ragged_task()
    found = attribute(model, task, site="resid_pre", axes=("layer",), steps=200)
    np.testing.assert_allclose(found.samples[:, 0], found.scale, rtol=0, atol=2e-2)
    few = attribute(model, task, site="resid_pre", axes=("layer",), steps=1)
    assert np.abs(few.samples[:, 0] - few.scale).max() > 0.5


def test_the_last_layers_z_is_nearly_linear():
    """Behind the last attention only an MLP and a norm bend the metric: the estimate ranks nearly as the sweep does."""
    model, task = held("gpt2"), task_of("gpt2", prompts=8)
    exact, found = (run(model, task).values for run in (lambda m, t: patch_sweep(m, t, progress=False), attribute))
    assert np.corrcoef(exact[2], found[2])[0, 1] > 0.7


def test_large_groups_are_split(monkeypatch):
    model, task = held("qwen3"), task_of("qwen3", prompts=5)
    whole = attribute(model, task, steps=4)
    monkeypatch.setattr(attribution, "_ROWS", 12)
    np.testing.assert_allclose(attribute(model, task, steps=4).samples, whole.samples, rtol=0, atol=1e-5)
    assert whole.provenance["method"] == "integrated gradients, 4 steps"


def gradients_of_at_most(rows, tried, monkeypatch):
    plain = attribution.site_gradients

    def scarce(model, base, other, site, shares, metric):
        tried.append((len(base.tokens), len(shares)))
        if len(shares) * base.tokens[:, base.start :].numel() > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(model, base, other, site, shares, metric)

    monkeypatch.setattr(attribution, "site_gradients", scarce)


@pytest.mark.parametrize("steps", [1, 4])
def test_on_a_gpu_a_backward_pass_is_as_large_as_its_memory(steps, monkeypatch):
    model, task, tried = held("qwen3"), task_of("qwen3", prompts=5), []
    whole = attribute(model, task, steps=steps)
    gradients_of_at_most(10**6, tried, monkeypatch)
    # 5 rows a prompt
    last = [(1, min(steps, 2))] * -(-steps // 2)
    for fitting, expected in [(10**6, [(5, steps)]), (29, [(5, 1)] * steps), (14, [(2, 1)] * (2 * steps) + last)]:
        tried.clear()
        monkeypatch.setattr(attribution, "gradient_rows_that_fit", lambda *asked, fitting=fitting: fitting)
        found = attribute(model, task, steps=steps)
        assert tried == expected
        np.testing.assert_allclose(found.samples, whole.samples, rtol=0, atol=1e-5)


def test_backward_passes_that_do_not_fit_are_halved_by_steps_and_then_by_prompts(monkeypatch):
    model, task, tried = held("qwen3"), task_of("qwen3", prompts=5), []
    whole = attribute(model, task, steps=4)
    monkeypatch.setattr(attribution, "gradient_rows_that_fit", lambda *asked: 10**6)
    gradients_of_at_most(10, tried, monkeypatch)
    found = attribute(model, task, steps=4)
    np.testing.assert_allclose(found.samples, whole.samples, rtol=0, atol=1e-5)
    assert tried[:5] == [(5, 4), (5, 2), (5, 1), (2, 4), (2, 2)] and tried[5] == (2, 1)
    gradients_of_at_most(4, tried, monkeypatch)
    with pytest.raises(ValueError, match="does not hold a backward pass of one prompt of 9 tokens"):
        attribute(model, task, steps=4)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"metric": "rank"}, "'rank' has no gradient"),
        ({"metric": ["kl", "prob"]}, "one at a time"),
        ({"steps": 0}, "at least 1"),
        ({"site": "mlp_out", "axes": ("layer", "head")}, "are not available at 'mlp_out'"),
    ],
)
def test_what_cannot_be_attributed_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        attribute(held("llama"), task_of(), **wrong)


def test_no_gradient_is_left_behind():
    model, task = held("llama"), task_of()
    attribute(model, task, metric="kl")
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert not [module for module in model.hf.modules() if "forward" in module.__dict__]
