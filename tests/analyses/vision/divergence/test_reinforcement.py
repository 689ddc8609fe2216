"""Reinforced heads: chosen layer by layer as plain hooks choose them, and changed at every row and nowhere else."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.divergence.reinforcement import reinforce
from headlens.analyses.vision.samples import Samples
from headlens.hooks.edits import Call, Gate
from pictured import pictured, plain_run, plain_without
from planted_looker import LOOKER, planted_looker
from tiny_models import held, inputs_for, tiny

SAMPLES = pictured()
ALIKE = [1, 2, 4]  # of equal length, and of one batch


def plainly_chosen(inputs, alpha, layers, way="deleted", zero_outliers=True):
    """One whole run for each layer, the heads chosen so far made louder."""
    hf = tiny("llava")
    text = plain_run(hf, plain_without(inputs, way, None))[0][-1]
    chosen, measured = np.zeros((3, 4), bool), np.zeros((3, 4), np.float32)
    for layer in range(3):
        z = plain_run(hf, inputs, chosen, alpha)[0][-1, layer]
        moved = np.linalg.norm(z - text[layer], axis=-1)
        loud = np.square(text[layer].numpy()).sum(-1)
        measured[layer] = moved
        surging = (moved > moved.mean() + moved.std()) & (loud > loud.mean() + loud.std())
        counted = np.where(surging & zero_outliers, 0, moved)
        if layer in layers:
            chosen[layer] = counted > np.sort(counted)[1]
    return chosen, measured


@pytest.mark.parametrize(
    "words",
    [{}, {"alpha": 3.0, "layers": [0, 1, 2]}, {"zero_outliers": False, "layers": [0, 1, 2]}, {"without": "blank"}],
    ids=["defaults", "all_layers", "outliers", "blank"],
)
def test_heads_are_chosen_as_by_plain_runs(words):
    found = reinforce(held("llava"), SAMPLES, batch=2, progress=False, **words)
    plain = {"alpha": 2.0, "layers": [1, 2], **words}
    plain["way"] = plain.pop("without", "deleted")
    for at, inputs in enumerate(SAMPLES.inputs):
        chosen, measured = plainly_chosen(inputs, **plain)
        assert np.array_equal(found.heads[at], chosen), at
        np.testing.assert_allclose(found.divergence.samples[at], measured, rtol=1e-4, atol=1e-5)


def test_an_outlier_is_not_chosen():
    ruled, free = (
        reinforce(held("llava"), SAMPLES, layers=[0, 1, 2], zero_outliers=asked, progress=False)
        for asked in (True, False)
    )
    assert (ruled.heads != free.heads).any() and (free.heads.sum(-1) == 2).all()


def test_later_layers_are_measured_with_the_earlier_ones_reinforced():
    model = held("llava")
    found = reinforce(model, SAMPLES, layers=[0, 1, 2], progress=False).divergence.samples
    plain = divergence(model, SAMPLES, progress=False).samples
    np.testing.assert_allclose(found[:, 0], plain[:, 0], rtol=1e-4, atol=1e-5)
    assert (np.abs(found[:, 1:] - plain[:, 1:]) > 1e-2).mean() > 0.9


@pytest.mark.parametrize("samples", [[0], ALIKE], ids=["gate", "one_call_a_layer"])
def test_alpha_1_is_bit_equal_to_no_edit(samples):
    model, found = held("llava"), reinforce(held("llava"), SAMPLES, alpha=1.0, progress=False)
    (_, inputs), *rest = SAMPLES.subset(samples).batches(8)
    assert not rest and found.heads.any()
    with torch.no_grad():
        plain = model(inputs)
        with model.edited(*found.edits(samples)):
            assert torch.equal(model(inputs), plain)


def test_each_prompt_of_a_batch_has_its_own_heads_and_bystanders_are_bit_equal():
    model, found = held("llava"), reinforce(held("llava"), SAMPLES, layers=[1, 2], progress=False)
    edits, own = found.edits(ALIKE), found.heads[ALIKE]
    assert all(isinstance(edit, Call) for edit in edits) and len({row.tobytes() for row in own}) > 1
    ((_, inputs),) = SAMPLES.subset(ALIKE).batches(8)
    with torch.no_grad():
        _, plain = model.record(inputs, names_filter=["z"])
        with model.edited(*edits):
            logits, edited = model.record(inputs, names_filter=["z"])
        assert torch.equal(plain["blocks.0.attn.hook_z"], edited["blocks.0.attn.hook_z"])
        for row, at in enumerate(ALIKE):
            heads = torch.from_numpy(own[row, 1])
            before, after = (kept["blocks.1.attn.hook_z"][row] for kept in (plain, edited))
            assert torch.equal(after[:, ~heads], before[:, ~heads])
            assert torch.equal(after[:, heads], before[:, heads] * 2)
            # and the same as alone, by a Gate
            (gate,) = found.edits([at])
            assert isinstance(gate, Gate)
            with model.edited(gate):
                torch.testing.assert_close(model(SAMPLES.inputs[at])[0], logits[row], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [[3], ALIKE], ids=["gate", "batch"])
def test_prefill_and_every_cached_step_equal_plain_hooks(samples):
    model, hf = held("llava"), tiny("llava")
    hf_generate = model.hf.generate
    found = reinforce(model, SAMPLES, alpha=3.0, progress=False)
    ((_, inputs),) = SAMPLES.subset(samples).batches(8)
    kept = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with model.edited(*found.edits(samples)):
        edited = hf_generate(**inputs, **kept)
        assert torch.equal(model.generate(inputs, max_new_tokens=5, do_sample=False), edited.sequences)
    unlike = (edited.logits[0] - hf_generate(**inputs, **kept).logits[0]).abs().amax(1)
    assert (unlike > 0.1).all()
    start = inputs["input_ids"].shape[1]
    for row, at in enumerate(samples):
        # without the mask of the prompt, which has no entries for the answer
        whole = {"input_ids": edited.sequences[row : row + 1, :-1], "pixel_values": SAMPLES.inputs[at]["pixel_values"]}
        _, logits = plain_run(hf, whole, found.heads[at], 3.0)
        steps = torch.stack([step[row] for step in edited.logits])
        torch.testing.assert_close(steps, logits[start - 1 : start - 1 + len(steps)], rtol=0, atol=2e-4)


def test_the_planted_head_is_reinforced():
    found = reinforce(planted_looker(), SAMPLES, position="kept", zero_outliers=False, progress=False)
    assert found.layers == (1,) and found.heads[:, LOOKER.layer, LOOKER.head].all()


def test_controls_have_as_many_heads_in_the_same_layers():
    found = reinforce(held("llava"), SAMPLES, layers=[0, 2], progress=False)
    controls = found.controls(seed=4)
    assert [*controls] == ["random", "lowest", "all"]
    for name in ("random", "lowest"):
        assert np.array_equal(controls[name].heads.sum(-1), found.heads.sum(-1)) and controls[name].alpha == 2.0
    assert (controls["all"].heads.sum((0, 2)) == [20, 0, 20]).all()
    lowest, measured = controls["lowest"].heads, found.divergence.samples
    for at, layer in np.ndindex(len(SAMPLES), 3):
        in_it, out = measured[at, layer, lowest[at, layer]], measured[at, layer, ~lowest[at, layer]]
        assert layer == 1 or in_it.max() < out.min()
    assert np.array_equal(controls["random"].heads, found.controls(seed=4)["random"].heads)
    assert not np.array_equal(controls["random"].heads, found.controls(seed=5)["random"].heads)


def test_without_a_picture_no_head_is_chosen_and_there_is_no_edit():
    text = Samples("text", tuple({"input_ids": torch.arange(4 + at, 15 + at)[None]} for at in range(2)))
    found = reinforce(held("llava"), text, progress=False)
    assert not found.heads.any() and found.edits() == () and found.edits([1]) == ()


def test_a_batch_of_other_prompts_is_refused():
    model, found = held("llava"), reinforce(held("llava"), SAMPLES, progress=False)
    with pytest.raises(ValueError, match="chosen for 3 prompts one by one, and 2 run"):
        with torch.no_grad(), model.edited(*found.edits(ALIKE)):
            model(inputs_for("llava", batch=2))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"layers": [3]}, r"layers=\[3\]"),
        ({"layers": []}, r"layers=\[\]"),
        ({"layers": [-1]}, r"layers=\[-1\]"),
        ({"without": "noise"}, "without='noise'"),
    ],
    ids=["alpha", "beyond", "none", "negative", "way"],
)
def test_what_does_not_fit_is_refused(words, says):
    with pytest.raises(ValueError, match=says):
        reinforce(held("llava"), SAMPLES, progress=False, **words)
