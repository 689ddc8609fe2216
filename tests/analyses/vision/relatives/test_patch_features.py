"""The residual stream at image tokens, against transformers' own hidden states."""

import pytest
import torch

from headlens.analyses.vision.relatives.patch_features import patch_features
from headlens.analyses.vision.samples import Samples
from tiny_models import IMAGE_TOKEN, held, tiny
from tiny_samples import sample

SEVERAL = Samples("several", (sample(5, start=(2, 8)), sample(9, seed=1), sample(5, seed=2, start=(2, 9))))


@pytest.mark.parametrize("layer", [0, 1])
def test_features_are_hidden_states(layer):
    found, hf = patch_features(held("llava"), SEVERAL, layer, batch=2), tiny("llava")
    assert found.shape == (3, 16, 32) and not found.requires_grad
    for inputs, own in zip(SEVERAL.inputs, found, strict=True):
        with torch.no_grad():
            states = hf(**inputs, output_hidden_states=True).hidden_states[layer + 1][0]
        torch.testing.assert_close(own, states[inputs["input_ids"][0] == IMAGE_TOKEN], rtol=1e-4, atol=1e-5)


def test_patches_in_front_of_a_question_do_not_know_it():
    first = sample(5)
    other = {**first, "input_ids": torch.cat([first["input_ids"][:, :16], torch.arange(40, 45)[None]], 1)}
    one, two = patch_features(held("llava"), Samples("two", (first, other)), 2)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("samples", "layer", "says"),
    [
        (SEVERAL, 3, "Layer 3"),
        (Samples("mixed", (sample(5), sample(5, pictures=2))), 0, r"\[16, 32\] image tokens"),
        (Samples("text", ({"input_ids": torch.arange(4, 9)[None]},)), 0, r"\[0\] image tokens"),
        (SEVERAL.subset([]), 0, r"\[\] image tokens"),
    ],
    ids=["layer", "mixed", "text", "none"],
)
def test_what_does_not_fit_is_refused(samples, layer, says):
    with pytest.raises(ValueError, match=says):
        patch_features(held("llava"), samples, layer)
