"""Head divergence against plain hooks on transformers' eager attention, and what must hold exactly."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.divergence.divergence import divergence, position_divergence
from headlens.analyses.vision.divergence.image_free import image_free
from headlens.analyses.vision.samples import Samples
from headlens.hooks.edits import Gate
from headlens.hooks.model import wrap
from pictured import pictured, plain_run, plain_without
from planted_looker import LOOKER, planted_looker
from tiny_models import IMAGE_TOKEN, held, tiny

SAMPLES = pictured()


def plain_pairs(way, position):
    """z with and without the picture at the last token of each sample, [layer, head, d_head]."""
    hf = tiny("llava")
    if way != "mean":
        return [
            [plain_run(hf, run)[0][-1] for run in (one, plain_without(one, way, position))] for one in SAMPLES.inputs
        ]
    with torch.no_grad():
        patches = [hf.model.get_image_features(one["pixel_values"]).pooler_output[0] for one in SAMPLES.inputs]
    mean, pairs = torch.cat(patches).mean(0), []
    for one in SAMPLES.inputs:
        embeds = hf.get_input_embeddings()(one["input_ids"]).detach().clone()
        embeds[one["input_ids"] == IMAGE_TOKEN] = mean
        pairs.append([plain_run(hf, run)[0][-1] for run in (one, {"inputs_embeds": embeds})])
    return pairs


def compared(way, position, **words):
    found = divergence(held("llava"), SAMPLES, without=way, position=position, batch=2, progress=False, **words)
    return found, plain_pairs(way, position)


@pytest.mark.parametrize(
    ("way", "position"), [("deleted", None), ("deleted", "kept"), ("blank", None), ("mean", "kept")]
)
def test_every_way_equals_plain_hooks(way, position):
    found, pairs = compared(way, position)
    wanted = torch.stack([(z - other).square().sum(-1).sqrt() for z, other in pairs])
    assert found.dims == ("layer", "head") and found.clusters == SAMPLES.clusters
    assert float(wanted.min()) > 0.05
    np.testing.assert_allclose(found.samples, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.values, wanted.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("relative", "projected"), [(True, False), (False, True), (True, True)])
def test_relative_and_projected_equal_plain_algebra(relative, projected):
    found, pairs = compared("deleted", None, relative=relative, projected=projected)
    for at, (z, other) in enumerate(pairs):
        for layer, head in np.ndindex(3, 4):
            whole, change = z[layer, head], z[layer, head] - other[layer, head]
            if projected:
                attention = held("llava").hf.model.language_model.layers[layer].self_attn
                weight = attention.o_proj.weight.detach()[:, head * 8 : head * 8 + 8]
                whole, change = weight @ whole, weight @ change
            wanted = change.norm() / whole.norm() if relative else change.norm()
            assert float(found.samples[at, layer, head]) == pytest.approx(float(wanted), rel=1e-4)


def test_outliers_become_0_one_sample_at_a_time():
    found, pairs = compared("deleted", None, zero_outliers=True)
    zeroed = 0
    for at, (z, other) in enumerate(pairs):
        moved, loud = (z - other).norm(dim=-1).numpy(), (other**2).sum(-1).numpy()
        out = np.logical_and(*(v > v.mean(1, keepdims=True) + v.std(1, keepdims=True) for v in (moved, loud)))
        np.testing.assert_allclose(found.samples[at], np.where(out, 0, moved), rtol=1e-4, atol=1e-5)
        zeroed += out.sum()
    assert zeroed > 0


@pytest.mark.parametrize("words", [{}, {"position": "kept"}, {"without": "blank"}, {"without": "mean"}], ids=str)
def test_without_a_picture_nothing_diverges(words):
    text = Samples("text", tuple({"input_ids": torch.arange(4 + at, 15 + at)[None]} for at in range(3)))
    assert (divergence(held("llava"), text, progress=False, **words).samples == 0).all()


def test_a_head_without_values_has_none():
    hf = tiny("llava")
    with torch.no_grad():
        # key/value head 1, which query heads 2 and 3 share
        hf.model.language_model.layers[1].self_attn.v_proj.weight[8:] = 0
    raw, share = (divergence(wrap(hf), SAMPLES, relative=asked, progress=False) for asked in (False, True))
    assert (raw.samples[:, 1, 2:] == 0).all() and (raw.samples[:, 1, :2] > 0).all() and (raw.samples[:, 2] > 0).all()
    assert np.isnan(share.values[1, 2:]).all() and np.isfinite(share.values).sum() == 10


def test_the_planted_head_is_first_and_without_it_the_picture_is_not_seen():
    model = planted_looker()
    for words in ({"position": "kept"}, {"without": "blank"}, {"without": "mean"}):
        found = divergence(model, SAMPLES, progress=False, **words)
        others = np.delete(found.samples.reshape(len(SAMPLES), -1), LOOKER.layer * 4 + LOOKER.head, 1)
        assert (found.samples[:, LOOKER.layer, LOOKER.head] > 0.05).all() and (others < 1e-4).all()
    for inputs in SAMPLES.inputs:
        free = plain_without(inputs, "deleted", "kept")
        with torch.no_grad():
            apart = (model(inputs)[0, -1] - model(free)[0, -1]).abs().max()
            with model.edited(Gate(str(LOOKER), 0.0)):
                silenced = (model(inputs)[0, -1] - model(free)[0, -1]).abs().max()
        assert apart > 0.05 and silenced < 1e-4


def test_positions_alone_are_rounding_behind_the_picture_and_bound_the_rest():
    model = held("llava")
    alone = position_divergence(model, SAMPLES, progress=False).samples
    assert (alone[0] < 1e-4).all() and (alone[1:] > 1e-2).all()
    shifted, kept = (
        divergence(model, SAMPLES, position=position, progress=False).samples for position in ("shifted", "kept")
    )
    assert (np.abs(shifted - kept) <= alone + 1e-4).all() and (np.abs(shifted - kept)[1:] > 1e-3).any()


def test_samples_that_run_together_do_not_mix():
    one, five = (divergence(held("llava"), SAMPLES, batch=batch, progress=False) for batch in (1, 5))
    np.testing.assert_allclose(one.samples, five.samples, rtol=1e-4, atol=1e-5)
    assert one.provenance["samples_hash"] == five.provenance["samples_hash"]


def test_kept_positions_are_one_text_for_transformers_too():
    """Without a mask and a cache it would take the jump for the start of another text."""
    bare = [{name: value for name, value in one.items() if name != "attention_mask"} for one in SAMPLES.inputs]
    free = image_free(held("llava"), Samples("bare", tuple(bare)), "deleted", "kept", 1)
    for inputs, whole in zip(free.samples.inputs, SAMPLES.inputs, strict=True):
        z, wanted = (plain_run(tiny("llava"), run)[0][-1] for run in (inputs, plain_without(whole, "deleted", "kept")))
        torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-5)


def test_a_run_leaves_nothing_behind():
    model, inputs = held("llava"), SAMPLES.inputs[1]
    with torch.no_grad():
        before = model(inputs)
        divergence(model, SAMPLES, without="mean", progress=False)
        assert torch.equal(model(inputs), before)


ENDS_IN_A_PATCH = Samples("patch", ({"input_ids": torch.tensor([[5, 6, IMAGE_TOKEN]])},))
PADDED = Samples("padded", ({"input_ids": torch.tensor([[1, 5, 6]]), "attention_mask": torch.tensor([[0, 1, 1]])},))


@pytest.mark.parametrize(
    ("samples", "words", "says"),
    [
        (SAMPLES, {"without": "black"}, "without='black'"),
        (SAMPLES, {"position": "left"}, "position='left'"),
        (SAMPLES, {"without": "blank", "position": "shifted"}, "always 'kept'"),
        (SAMPLES, {"batch": 0}, "batch=0"),
        (SAMPLES.subset([]), {}, "0 samples"),
        (ENDS_IN_A_PATCH, {}, "ends in an image token"),
        (PADDED, {}, "padding"),
    ],
    ids=["way", "position", "shifted", "batch", "none", "end", "padding"],
)
def test_what_does_not_fit_is_refused(samples, words, says):
    with pytest.raises(ValueError, match=says):
        divergence(held("llava"), samples, progress=False, **words)
