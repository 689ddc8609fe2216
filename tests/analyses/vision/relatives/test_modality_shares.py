"""Self- and cross-modal attention by hand from transformers' own patterns."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.relatives.modality_shares import modality_shares
from headlens.analyses.vision.samples import Samples
from headlens.hooks.edits import Call
from plain_answers import plain_patterns
from tiny_models import IMAGE_TOKEN, held
from tiny_samples import pulled, sample

SEVERAL = Samples(
    "several",
    (sample(5, start=(2, 8)), sample(9, pictures=2, seed=1), sample(5, seed=2, start=(2, 9))),
    clusters=("a", "b", "a"),
)
KINDS = ("text", "image")


def by_hand(inputs, forced):
    """[layer, head] by name, with loops over rows."""
    image = inputs["input_ids"][0] == IMAGE_TOKEN
    of = {"text": ~image, "image": image}
    patterns = plain_patterns(inputs)[0]
    found = {}
    for row_kind in KINDS:
        for key_kind in KINDS:
            shares, ratios = [], []
            for row in of[row_kind].nonzero()[:, 0].tolist():
                seen = {kind: int(of[kind][: row + 1].sum()) for kind in KINDS}
                if not forced and not all(seen.values()):
                    continue
                share = patterns[:, :, row][..., of[key_kind]].sum(-1)
                shares.append(share)
                if seen[key_kind]:
                    ratios.append(share / (seen[key_kind] / (row + 1)))
            nothing = torch.full(patterns.shape[:2], torch.nan)
            found[f"{row_kind}_to_{key_kind}"] = torch.stack(shares).mean(0) if shares else nothing
            found[f"{row_kind}_to_{key_kind}_even"] = torch.stack(ratios).mean(0) if ratios else nothing
    return found


@pytest.mark.parametrize("forced", [False, True])
def test_shares_by_hand_in_prompts_of_several_lengths_and_pictures(forced):
    found = modality_shares(held("llava"), SEVERAL, forced=forced, batch=2)
    for at, inputs in enumerate(SEVERAL.inputs):
        for name, wanted in by_hand(inputs, forced).items():
            np.testing.assert_allclose(found[name].samples[at], wanted, rtol=1e-4, err_msg=name)
    assert found["text_to_image"].dims == ("layer", "head") and found["text_to_image"].clusters == ("a", "b", "a")
    assert found["text_to_image"].provenance["forced"] is forced


@pytest.mark.parametrize("forced", [False, True])
def test_the_shares_of_a_row_add_up_to_1(forced):
    found = modality_shares(held("llava"), SEVERAL, forced=forced)
    for kind in KINDS:
        whole = found[f"{kind}_to_text"].samples + found[f"{kind}_to_image"].samples
        np.testing.assert_allclose(whole[~np.isnan(whole)], 1, rtol=1e-5)


def test_what_the_mask_forces_is_left_out():
    first = Samples("first", (sample(5),))
    free, forced = (modality_shares(held("llava"), first, forced=which) for which in (False, True))
    # a picture in front sees no text
    assert np.isnan(free["image_to_image"].values).all() and (forced["image_to_text"].values == 0).all()
    np.testing.assert_allclose(forced["image_to_image"].values, 1, rtol=1e-6)
    assert np.isnan(forced["image_to_text_even"].values).all()


def test_even_attention_is_1():
    model = held("llava")
    with model.edited(Call(lambda name: name.startswith("blocks") and name.endswith("attn_scores"), _flat)):
        found = modality_shares(model, SEVERAL)
    for name in (f"{row}_to_{key}_even" for row in KINDS for key in KINDS):
        np.testing.assert_allclose(found[name].values, 1, rtol=1e-5)
    with model.edited(pulled([2, 3, 4], 6.0, 1)):
        pushed = modality_shares(model, SEVERAL.subset([0]))
    assert (pushed["text_to_image_even"].values[1] > 1).all()


def _flat(scores, hook):
    return torch.where(scores == -torch.inf, scores, 0)


def test_text_alone():
    text = Samples("text", ({"input_ids": torch.arange(4, 12)[None]},))
    free, forced = (modality_shares(held("llava"), text, forced=which) for which in (False, True))
    assert all(np.isnan(each.values).all() for each in free.values())
    np.testing.assert_allclose(forced["text_to_text"].values, 1, rtol=1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="there are none"):
        modality_shares(held("llava"), SEVERAL.subset([]))
    with pytest.raises(ValueError, match="names no image token"):
        modality_shares(held("llama"), SEVERAL)
