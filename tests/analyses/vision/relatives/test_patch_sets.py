"""Local and summary patches against numpy, on what transformers' own eager tower attends to."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.relatives.patch_sets import patch_sets, token_sets, vision_layers
from headlens.analyses.vision.samples import Samples
from headlens.hooks.model import wrap
from plain_patch_sets import looked, sets_by_hand
from tiny_models import IMAGE_TOKEN, held, tiny
from tiny_samples import sample


def test_sets_are_disjoint_and_of_the_right_size():
    draw = torch.Generator().manual_seed(0)
    first, last = torch.rand(50, 36, generator=draw), torch.rand(50, 36, generator=draw).pow(6)
    local, summary = patch_sets(first, last)
    assert not (local & summary).any() and (local.sum(1) <= 9).all() and summary.any()
    assert ((local.sum(1) < 9) & (local.sum(1) > 5)).any()
    for at in range(50):
        expected = sets_by_hand(first[at].numpy(), last[at].numpy())
        assert tuple({*each[at].nonzero()[:, 0].tolist()} for each in (local, summary)) == expected
    assert not patch_sets(first, last, share=0.0)[0].any()
    assert torch.equal(patch_sets(first, last, 1.0)[0], ~summary)


def test_ties_are_no_outliers_and_the_first_patches_win():
    local, summary = patch_sets(torch.ones(1, 10), torch.ones(1, 10))
    assert local[0].nonzero()[:, 0].tolist() == [0, 1] and not summary.any()


def test_tokens_are_those_of_each_samples_own_pictures():
    some = Samples(
        "mixed",
        (
            sample(7, pictures=2, seed=4, start=(2, 11)),
            sample(9, seed=1),
            sample(7, pictures=2, seed=5, start=(2, 11)),
            {"input_ids": torch.arange(4, 13)[None]},
            sample(9, seed=2),
        ),
    )
    found, plain = token_sets(held("llava"), some), tiny("llava")
    assert len(found) == 5
    for own, inputs in zip(found, some.inputs, strict=True):
        at = (inputs["input_ids"][0] == IMAGE_TOKEN).nonzero()[:, 0].reshape(-1, 16)
        local, summary = set(), set()
        pictures = zip(*looked(plain, inputs["pixel_values"]), strict=True) if len(at) else ()
        for picture, (first, last) in enumerate(pictures):
            near, whole = sets_by_hand(first, last)
            local |= {int(at[picture, patch]) for patch in near}
            summary |= {int(at[picture, patch]) for patch in whole}
        assert {*np.flatnonzero(own["local"])} == local and {*np.flatnonzero(own["summary"])} == summary
        assert bool(local) == bool(len(at))
    assert any(own["summary"].any() for own in found)


def test_towers_without_cls_are_refused():
    import transformers

    config = held("llava").hf.config
    vision = transformers.SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4
    )
    torch.manual_seed(0)
    siglip = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=vision,
            text_config=config.text_config,
            image_token_index=IMAGE_TOKEN,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
        )
    )
    for model in (wrap(siglip.eval(), name="siglip"), held("llama")):
        with pytest.raises(ValueError, match="no vision tower with a CLS token"):
            vision_layers(model)
    with pytest.raises(ValueError, match="share=2.0"):
        token_sets(held("llava"), Samples("one", (sample(),)), share=2.0)
