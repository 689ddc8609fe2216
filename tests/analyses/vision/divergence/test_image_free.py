"""Prompts without their pictures, in models whose pictures come in other ways."""

import pytest
import torch
import transformers as hf

from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.divergence.image_free import image_free, image_token
from headlens.analyses.vision.divergence.reinforcement import reinforce
from headlens.analyses.vision.samples import Samples
from headlens.hooks.model import wrap
from pictured import plain_run, plain_without
from tiny_models import IMAGE_TOKEN, N_IMAGE_TOKENS, VOCABULARY, held, tiny

ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "rope_parameters": ROPE,
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
TOKENS = {"image_token_id": IMAGE_TOKEN, "video_token_id": 98, "vision_start_token_id": 97, "vision_end_token_id": 96}


def qwen2_vl():
    vision = {**VISION, "embed_dim": 32, "mlp_ratio": 2}
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(text_config=TEXT, vision_config=vision, **TOKENS))


def qwen3_vl():
    vision = {**VISION, "out_hidden_size": 32, "intermediate_size": 48, "deepstack_visual_indexes": [0]}
    vision["num_position_embeddings"] = 16
    return hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(text_config=TEXT, vision_config=vision, **TOKENS))


def qwen_samples(n=3):
    """Four image tokens of 4 x 4 patches, between tokens that only frame them."""
    draw = torch.Generator().manual_seed(2)
    inputs = []
    for _ in range(n):
        text = torch.randint(4, 90, (1, 5), generator=draw)
        frame = [torch.full((1, 4), IMAGE_TOKEN), torch.full((1, 1), 96)]
        ids = torch.cat([text[:, :1], torch.full((1, 1), 97), *frame, text[:, 1:]], 1)
        inputs.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
                "pixel_values": torch.randn(16, 96, generator=draw),
                "image_grid_thw": torch.tensor([[1, 4, 4]]),
            }
        )
    return Samples("qwen", tuple(inputs))


@pytest.fixture(scope="module", params=[qwen2_vl, qwen3_vl], ids=["qwen2_vl", "qwen3_vl"])
def qwen(request):
    hf.logging.set_verbosity_error()
    torch.manual_seed(0)
    return wrap(request.param().eval(), name=request.param.__name__)


def test_positions_of_several_axes(qwen):
    samples = qwen_samples()
    free = image_free(qwen, samples, "deleted", None, 2)
    assert image_token(qwen) == IMAGE_TOKEN and {*free.samples.inputs[0]} == {
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
    }
    assert all(value.shape == (1, 7) for value in free.samples.inputs[0].values())
    for way in ("deleted", "blank"):
        apart = [divergence(qwen, samples, without=way, batch=size, progress=False).samples for size in (1, 3)]
        assert (apart[0] > 0).all()
        torch.testing.assert_close(*(torch.tensor(each) for each in apart), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="positions of several axes"):
        image_free(qwen, samples, "deleted", "kept", 2)
    found = reinforce(qwen, samples, progress=False)
    ((_, inputs),) = samples.batches(3)
    with qwen.edited(*found.edits()):
        assert qwen.generate(inputs, max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (3, 14)


def test_pictures_that_come_again_behind_layer_0_have_no_mean(qwen):
    if qwen.name == "qwen2_vl":
        assert (divergence(qwen, qwen_samples(), without="mean", progress=False).samples > 0).all()
        return
    with pytest.raises(ValueError, match="behind layer 0"):
        image_free(qwen, qwen_samples(), "mean", None, 2)


def test_several_pictures_are_all_taken_away():
    draw = torch.Generator().manual_seed(8)
    inputs = []
    for _ in range(2):
        patches = torch.full((1, N_IMAGE_TOKENS), IMAGE_TOKEN)
        ids = torch.cat([torch.full((1, 1), 2), patches, torch.full((1, 2), 40), patches, torch.full((1, 3), 50)], 1)
        inputs.append({"input_ids": ids, "pixel_values": torch.randn(2, 3, 16, 16, generator=draw)})
    found = divergence(held("llava"), Samples("two", tuple(inputs)), batch=2, progress=False)
    for at, one in enumerate(inputs):
        z, other = (plain_run(tiny("llava"), run)[0][-1] for run in (one, plain_without(one, "deleted", "shifted")))
        torch.testing.assert_close(torch.tensor(found.samples[at]), (z - other).norm(dim=-1), rtol=1e-4, atol=1e-5)


def test_given_positions_stay_where_they_are_kept_and_are_counted_anew_where_they_shift():
    ids = torch.cat([torch.full((1, 2), 5), torch.full((1, N_IMAGE_TOKENS), IMAGE_TOKEN), torch.full((1, 2), 6)], 1)
    positions = torch.arange(3, 3 + ids.shape[1])[None]
    samples = Samples(
        "own", ({"input_ids": ids, "position_ids": positions, "pixel_values": torch.zeros(1, 3, 16, 16)},)
    )
    kept, shifted = (
        image_free(held("llava"), samples, "deleted", position, 1).samples.inputs[0] for position in ("kept", "shifted")
    )
    assert kept["position_ids"].tolist() == [[3, 4, 3 + 2 + N_IMAGE_TOKENS, 4 + 2 + N_IMAGE_TOKENS]]
    assert {*shifted} == {"input_ids"}
