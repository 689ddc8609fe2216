"""Image-centric heads: the rule's numbers by hand from recorded patterns, and what it makes of captured heads."""

import numpy as np
import pytest

from headlens.analyses.vision.redistribution.image_centric import ImageCentric, image_centric_heads
from headlens.analyses.vision.samples import Samples
from headlens.hooks.groups import Massive, TokenIds
from plain_redistribution import moved_by_hand
from tiny_models import IMAGE_TOKEN, held, inputs_for
from tiny_samples import planted, pulled, sample, samples

SINKS = Massive((3, 7), 1.5)


def rows_by_hand(model, inputs, sinks=SINKS):
    """Layer, head, pattern, sinks and patches of each text row behind an image, of one sample."""
    ids = inputs["input_ids"][0].numpy()
    image = {int(at) for at in np.flatnonzero(ids == IMAGE_TOKEN)}
    kept = model.record(inputs, names_filter=["resid_pre", "pattern"])[1]
    for layer in range(model.n_layers):
        stream = kept[f"blocks.{layer}.hook_resid_pre"][0].detach().double().numpy()
        size = np.abs(stream[:, sinks.dims]).max(-1) / np.sqrt((stream**2).mean(-1))
        massive = {int(at) for at in np.flatnonzero(size > sinks.above)}
        for head in range(model.n_heads):
            for row in range(min(image), len(ids)):
                if row not in image:
                    own = kept[f"blocks.{layer}.attn.hook_pattern"][0, head, row].detach().double().numpy()
                    yield layer, head, own, massive, image


@pytest.mark.parametrize("bounds", [{}, {"non_sink": 0.9, "floor": 0.6}, {"non_sink": 0.8, "bias": 0.01}])
def test_shares_by_hand_in_prompts_of_several_lengths_and_pictures(bounds):
    model = held("llava")
    some = Samples(
        "several",
        (sample(5, start=(2, 8)), sample(9, pictures=2, seed=1), sample(5, seed=2, start=(2, 9))),
        clusters=("a", "b", "a"),
    )
    found = image_centric_heads(model, some, SINKS, batch=2, **bounds)
    wanted = {"non_sink": 0.5, "floor": 0.2, **bounds}
    for at, inputs in enumerate(some.inputs):
        sums = np.zeros((3, 3, 4, 1))
        counts = np.zeros((3, 4, 1))
        for layer, head, own, sinks, image in rows_by_hand(model, inputs):
            visual, on_sinks = (sum(own[key] for key in keys) for keys in (image, image & sinks))
            chosen = moved_by_hand(own, sinks, image, 0.6, **wanted)[1]
            sums[:, layer, head, 0] += [chosen, visual, 1 - on_sinks / visual]
            counts[layer, head] += 1
        for name, own in zip(("chosen", "visual", "non_sink"), (sums / counts)[..., 0], strict=True):
            np.testing.assert_allclose(found[name].samples[at], own, rtol=1e-4)
    assert found["chosen"].clusters == ("a", "b", "a") and 0 < found["chosen"].values.mean() < 1
    assert found["chosen"].provenance["sink_dimensions"] == [3, 7]


def test_the_rule_rejects_the_heads_that_sinks_have_captured():
    model, some, at = held("llava"), samples(3), [2, 7, 11]
    sinks, shares = Massive((5,), 3.0), {}
    for score in (0.0, 9.0):
        with model.edited(planted(at, 5, 60.0), pulled(at, score, 1), pulled(at, score, 2)):
            shares[score] = image_centric_heads(model, some, sinks)
    free, captured = ({name: each.values[1:] for name, each in shares[score].items()} for score in (0.0, 9.0))
    assert (captured["visual"] > free["visual"]).all() and captured["visual"].min() > 0.8
    assert (captured["non_sink"] < 0.1).all() and (captured["chosen"] == 0).all() and free["chosen"].mean() > 0.5
    # layer 0 has no plant, and so no sinks
    assert (shares[9.0]["non_sink"].values[0] == 1).all()


def test_rows_without_attention_to_patches_have_no_share_on_others():
    model, some = held("llava"), samples(1, length=4)
    image = [*range(16)]
    with model.edited(pulled(image, -200.0, 1)):
        found = image_centric_heads(model, some, SINKS, floor=0.0, non_sink=0.0)
    assert np.isnan(found["non_sink"].values[1]).all() and not np.isnan(found["non_sink"].values[[0, 2]]).any()
    assert (found["visual"].values[1] == 0).all() and (found["chosen"].values[1] == 0).all()


def test_a_sample_without_a_picture_is_missing():
    model = held("llava")
    text = {"input_ids": inputs_for("llama", batch=1)["input_ids"]}
    found = image_centric_heads(model, Samples("mixed", (sample(), text)), SINKS)
    assert np.isnan(found["chosen"].samples[1]).all() and not np.isnan(found["chosen"].values).any()
    with pytest.raises(ValueError, match="No sample has text behind an image"):
        image_centric_heads(model, Samples("text", (text,)), SINKS)


def test_what_cannot_be_is_refused():
    for bounds in ({"non_sink": 1.2}, {"floor": -0.1}):
        with pytest.raises(ValueError, match="expected a share of attention, 0 to 1"):
            ImageCentric(TokenIds((99,)), SINKS, **bounds)
    with pytest.raises(ValueError, match="there are none"):
        image_centric_heads(held("llava"), samples(1).subset([]), SINKS)
    with pytest.raises(ValueError, match="names no image token"):
        image_centric_heads(held("llama"), samples(1), SINKS)
