"""Visual sinks are the patches at which massive activations are planted, sample by sample."""

import numpy as np
import pytest

from headlens.analyses.vision.redistribution.sink_dimensions import sink_threshold
from headlens.analyses.vision.redistribution.visual_sinks import visual_sinks
from headlens.analyses.vision.samples import Samples
from headlens.hooks.groups import Massive
from tiny_models import N_IMAGE_TOKENS, held, inputs_for
from tiny_samples import planted, sample, samples

DIM = 5


PLACES = [[1, 9], [4, 9], [2, 13]]


def test_planted_patches_are_found_and_text_is_not():
    model, some = held("llava"), samples(3)
    for at, own in enumerate(PLACES):
        # position 20 is text, and no visual sink however large
        with model.edited(planted([*own, 20], DIM, 300.0)):
            found = visual_sinks(model, some.subset([at]), Massive((DIM,), 4.0))
        assert [*np.flatnonzero(found.at(0)[1])] == own and [*np.flatnonzero(found.at(0)[2])] == own
        assert found.phi[0][1, 20] > 4 and not found.at(0)[0].any()


def test_samples_that_run_together_keep_their_own_sinks():
    model, some = held("llava"), samples(3)
    with model.edited(planted([[*own, 20] for own in PLACES], DIM, 300.0)):
        found = visual_sinks(model, some, Massive((DIM,), 4.0), batch=3)
    assert [[*np.flatnonzero(found.at(at)[1])] for at in range(3)] == PLACES
    assert found.share[:, 1] == pytest.approx(2 / N_IMAGE_TOKENS)


def test_the_detector_flips_at_its_share_of_the_length():
    model, some, at = held("llava"), samples(1), 6
    site = "blocks.2.hook_resid_pre"
    vector = model.record(some.inputs[0], names_filter=site)[1][site][0, at].detach().double().numpy()
    flips = np.sqrt((np.delete(vector, DIM) ** 2).sum() * 400 / 3696)
    for value, there in ((0.995, False), (1.005, True), (-1.005, True), (5.0, True)):
        with model.edited(planted([at], DIM, value * flips - vector[DIM], layer=1)):
            found = visual_sinks(model, some, Massive((DIM,), sink_threshold(model.d_model)))
        assert found.at(0)[2, at] == there


def test_phi_by_hand_in_prompts_of_several_lengths_and_pictures():
    model, dims = held("llava"), (3, 7)
    some = Samples("several", (sample(5), sample(9, pictures=2, seed=1), sample(5, seed=2)))
    found = visual_sinks(model, some, Massive(dims, 1.5), batch=2)
    for at, inputs in enumerate(some.inputs):
        kept = model.record(inputs, names_filter="resid_pre")[1]
        for layer in range(3):
            stream = kept[f"blocks.{layer}.hook_resid_pre"][0].detach().double().numpy()
            phi = np.abs(stream[:, dims]).max(-1) / np.sqrt((stream**2).mean(-1))
            np.testing.assert_allclose(found.phi[at][layer], phi, rtol=1e-4)
    assert [int(image.sum()) for image in found.image] == [16, 32, 16] and found.image[1][19:35].all()
    frame = found.to_frame()
    assert len(frame) == 3 * (16 + 32 + 16) and frame["sink"].sum() == sum(found.at(at).sum() for at in range(3))
    row = frame[(frame["sample"] == 1) & (frame["layer"] == 2) & (frame["pos"] == 20)].iloc[0]
    assert row["phi"] == found.phi[1][2, 20]


def test_a_sample_without_a_picture_has_no_share():
    inputs = {"input_ids": inputs_for("llama", batch=1)["input_ids"]}
    found = visual_sinks(held("llava"), Samples("text", (inputs,)), Massive((1,), 1.5))
    assert np.isnan(found.share).all() and not found.to_frame().size


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="Dimension 32 was given; the residual stream has 0..31"):
        visual_sinks(held("llava"), samples(1), Massive((32,)))
    with pytest.raises(ValueError, match="names no image token"):
        visual_sinks(held("llama"), samples(1), Massive((3,)))
    with pytest.raises(ValueError, match="There are no samples"):
        visual_sinks(held("llava"), samples(1).subset([]), Massive((3,)))
