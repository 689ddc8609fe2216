"""Half precision beside float32, by a whole sweep of the same weights in float32."""

import numpy as np
import pytest
import torch

from headlens.analyses import half_precision
from headlens.analyses.half_precision import CELLS, PROMPTS, drawn
from headlens.analyses.patching import patch_sweep, run_plan
from headlens.analyses.sweep_plan import plan
from headlens.hooks import float32_twin as twins
from headlens.hooks.model import wrap
from tiny_models import held, tiny
from tiny_tasks import ragged_task, task_of

KINDS = {
    "heads": {},
    "positions": {"axes": ("layer", "head", "pos")},
    "named positions": {"axes": ("layer", "pos"), "positions": ["END", 4]},
    "two metrics": {"metric": ["logit_diff", "kl"]},
    "noising": {"direction": "noising", "site": "resid_pre"},
    "means": {"source": "mean"},
    "others": {"source": "resample"},
}


def half(dtype=torch.bfloat16):
    return wrap(tiny("llama").to(dtype), name="half")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_report_is_the_difference_from_a_float32_sweep(kind, dtype, monkeypatch):
    monkeypatch.setattr(half_precision, "CELLS", 10**6)
    task = task_of(prompts=6) if kind == "others" else ragged_task()
    found = patch_sweep(half(dtype), task, progress=False, **KINDS[kind])
    exact = patch_sweep(wrap(tiny("llama").to(dtype).float()), task, progress=False, **KINDS[kind])
    report = found.provenance["half_precision"]
    # the third pair does not differ, and no run of it is patched; a mean would move it
    pairs = [row for row in range(len(task)) if kind in ("means", "others") or row != 2]
    size = np.abs(found.scale.mean(0))
    off = np.abs(np.nanmean(found.samples[pairs] - exact.samples[pairs], 0)) / size
    assert report["cells"] == np.isfinite(off).sum() / len(found.coords.get("metric", [0]))
    assert report["prompts"] == len(pairs)
    np.testing.assert_allclose(report["max_difference"], np.nanmax(off), rtol=1e-3)
    assert 0 < report["mean_difference"] <= report["max_difference"]
    of_scale = np.abs((found.scale - exact.scale)[pairs].mean(0)) / size
    np.testing.assert_allclose(report["scale_difference"], of_scale.max(), rtol=1e-3)
    assert report["dtype"] == str(dtype).removeprefix("torch.") and "in_words" in found.provenance


def test_a_few_cells_and_prompts_are_compared_and_said(monkeypatch):
    batches = []

    def watched(model):
        twin = twins.float32_twin(model)
        twin.hf.get_input_embeddings().register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
        return twin

    monkeypatch.setattr(half_precision, "float32_twin", watched)
    found = patch_sweep(half(), task_of(prompts=PROMPTS + 5), progress=False)
    report = found.provenance["half_precision"]
    assert (report["cells"], report["prompts"]) == (CELLS, PROMPTS)
    assert found.provenance["in_words"].startswith(
        "Computed in bfloat16: 8 cells on 16 prompt pairs differ from float32"
    )
    assert f"{report['max_difference']:.2g}" in found.provenance["in_words"]
    # runs of the sample, one of its cells at a time or all together, and the trial's of one prompt
    assert PROMPTS in batches and all(size == 1 or size % PROMPTS == 0 for size in batches)
    again = patch_sweep(half(), task_of(prompts=PROMPTS + 5), progress=False)
    assert again.provenance == found.provenance


def test_float32_sweeps_and_those_of_chosen_cells_are_not_compared():
    assert "half_precision" not in patch_sweep(held("llama"), task_of(), progress=False).provenance
    only = np.zeros((3, 4), bool)
    only[1, 2] = True
    part = run_plan(half(), task_of(), plan(), progress=False, only=only)
    assert "half_precision" not in part.provenance


def test_the_sample_has_the_largest_effects_and_others_that_were_patched():
    effects = np.random.default_rng(1).normal(size=(40, 30, 5, 2)).astype(np.float32)
    effects[:, 7:9, 3, 0] += [5, -5]
    effects[:, 9, :, :] = np.nan
    patched = [prompt for prompt in range(40) if prompt % 2]
    sample = drawn(effects, patched)
    assert len(sample.prompts) == PROMPTS and set(sample.prompts) <= set(patched)
    assert sample.cells.sum() == CELLS and sample.cells[7, 3] and sample.cells[8, 3] and not sample.cells[9].any()
    means = np.abs(effects[sample.prompts, :, :, 0].mean(0))
    largest = np.sort(means[np.isfinite(means)])[-CELLS // 2 :]
    assert set(largest) <= set(means[sample.cells]) and means[sample.cells].min() < largest[0]
    left_out = next(prompt for prompt in patched if prompt not in sample.prompts)
    assert sample.of((left_out, sample.prompts[5], 2, sample.prompts[1])) == (sample.prompts[5], sample.prompts[1])


def test_a_copy_that_cannot_be_made_is_said_and_the_sweep_stands(monkeypatch):
    whole = patch_sweep(half(), task_of(), progress=False)
    monkeypatch.setattr(twins, "_free_host_memory", lambda: 10)
    found = patch_sweep(half(), task_of(), progress=False)
    report = found.provenance["half_precision"]
    assert report == {"dtype": "bfloat16", "not_compared": report["not_compared"]} and "GiB" in report["not_compared"]
    assert found.provenance["in_words"] == (
        "Computed in bfloat16; not compared with float32: its copy takes 0.0 GiB, more than is free."
    )
    np.testing.assert_array_equal(found.samples, whole.samples)

    def scarce(model):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(half_precision, "float32_twin", scarce)
    words = patch_sweep(half(), task_of(), progress=False).provenance["in_words"]
    assert words.endswith("the GPU's memory does not hold a float32 copy and its runs.")


def test_a_resumed_run_does_not_compare_again(tmp_path, monkeypatch):
    first = patch_sweep(half(), task_of(), run=tmp_path, progress=False)
    monkeypatch.setattr(half_precision, "float32_twin", lambda model: pytest.fail("computed again"))
    assert patch_sweep(half(), task_of(), run=tmp_path, progress=False).provenance == first.provenance


def test_a_metric_that_says_nothing_is_refused_before_anything_is_compared():
    blind, task = tiny("llama").bfloat16(), task_of()
    with torch.no_grad():
        blind.lm_head.weight[task.answers] = blind.lm_head.weight[task.foils]
    with pytest.raises(ValueError, match="nothing to restore or destroy"):
        patch_sweep(wrap(blind), task, progress=False)


def test_the_model_is_left_as_it_was():
    model = half()
    before = model.weights_hash
    patch_sweep(model, task_of(), progress=False)
    assert model.dtype == torch.bfloat16 and model.weights_hash == before
