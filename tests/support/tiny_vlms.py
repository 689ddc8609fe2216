"""Random vision-language models of a few thousand weights, from transformers' own configurations. `vlm_inputs.py` has
what to run them on."""

from functools import cache
from typing import Any

import transformers as hf
from torch import nn

from headlens.hooks.model import Model, wrap
from tiny_models import drawn

VOCABULARY, IMAGE_TOKEN, VIDEO_TOKEN = 120, 99, 98
PAD, BOS, EOS = 1, 2, 3
START, END = 95, 96  # around a picture
PATCH, SIDE = 4, 16  # pixels of a patch, and of the picture that a vision tower of one size takes
WINDOW = 7  # of Gemma-3's sliding layers
_SPECIAL: dict[str, Any] = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    **_SPECIAL,
}
_VISION: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_QWEN: dict[str, Any] = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
_QWEN_VISION: dict[str, Any] = {"depth": 2, "num_heads": 3, "patch_size": PATCH, "spatial_merge_size": 2}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def _llava() -> nn.Module:
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**_VISION),
            text_config=hf.LlamaConfig(**_TEXT),
            image_token_index=IMAGE_TOKEN,
            vision_feature_layer=-1,
        )
    )


def _llava_next() -> nn.Module:
    return hf.LlavaNextForConditionalGeneration(
        hf.LlavaNextConfig(
            vision_config=hf.CLIPVisionConfig(**_VISION),
            text_config=hf.MistralConfig(**_TEXT, sliding_window=None),
            image_token_index=IMAGE_TOKEN,
            vision_feature_layer=-1,
            image_grid_pinpoints=PINPOINTS,
        )
    )


def _llava_onevision() -> nn.Module:
    return hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            vision_config=hf.SiglipVisionConfig(**_VISION, vision_use_head=False),
            text_config=hf.Qwen2Config(**_TEXT),
            image_token_index=IMAGE_TOKEN,
            video_token_index=VIDEO_TOKEN,
            image_grid_pinpoints=PINPOINTS,
            # two tiles' worth of patches at most, so that four tiles are made smaller
            vision_aspect_ratio="anyres_max_2",
        )
    )


def _qwen2_vl() -> nn.Module:
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(
            vision_config={**_QWEN_VISION, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2},
            text_config={**_TEXT, "rope_parameters": _ROPE},
            **_QWEN,
        )
    )


def _qwen2_5_vl() -> nn.Module:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32}
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            vision_config={**_QWEN_VISION, **sizes, "window_size": SIDE, "fullatt_block_indexes": [1]},
            text_config={**_TEXT, "rope_parameters": _ROPE},
            **_QWEN,
        )
    )


def _qwen3_vl() -> nn.Module:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32, "num_position_embeddings": 16}
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(
            vision_config={**_QWEN_VISION, **sizes, "deepstack_visual_indexes": [0]},
            text_config={**_TEXT, "head_dim": 8, "rope_parameters": {**_ROPE, "mrope_interleaved": True}},
            **_QWEN,
        )
    )


def _gemma3() -> nn.Module:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            vision_config=hf.SiglipVisionConfig(**_VISION, vision_use_head=False),
            text_config=hf.Gemma3TextConfig(**_TEXT, head_dim=8, sliding_window=WINDOW, layer_types=kinds),
            mm_tokens_per_image=4,
            boi_token_index=START,
            eoi_token_index=END,
            image_token_index=IMAGE_TOKEN,
        )
    )


def _paligemma() -> nn.Module:
    return hf.PaliGemmaForConditionalGeneration(
        hf.PaliGemmaConfig(
            vision_config=hf.SiglipVisionConfig(**_VISION, vision_use_head=False),
            text_config=hf.GemmaConfig(**_TEXT, head_dim=8),
            image_token_index=IMAGE_TOKEN,
            projection_dim=32,
            hidden_size=32,
            vocab_size=VOCABULARY,
        )
    )


def _idefics3() -> nn.Module:
    return hf.Idefics3ForConditionalGeneration(
        hf.Idefics3Config(
            vision_config=_VISION,
            text_config=hf.LlamaConfig(**_TEXT),
            image_token_id=IMAGE_TOKEN,
            scale_factor=2,
            pad_token_id=PAD,
        )
    )


def _instructblip() -> nn.Module:
    small = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 32}
    return hf.InstructBlipForConditionalGeneration(
        hf.InstructBlipConfig(
            vision_config=_VISION,
            qformer_config={**small, "vocab_size": VOCABULARY, "num_hidden_layers": 3, "encoder_hidden_size": 24},
            text_config=hf.OPTConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=4,
                ffn_dim=48,
                word_embed_proj_dim=32,
                max_position_embeddings=128,
                **_SPECIAL,
            ).to_dict(),
            num_query_tokens=5,
            image_token_index=IMAGE_TOKEN,
        )
    )


_BUILDERS = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
    "instructblip": _instructblip,
}
VLMS = tuple(_BUILDERS)
SEVERAL_PICTURES = tuple(name for name in VLMS if name != "instructblip")


def tiny_vlm(name: str, seed: int = 0) -> hf.PreTrainedModel:
    """A random model of the named architecture, in evaluation mode."""
    return drawn(_BUILDERS[name], seed)


@cache
def held_vlm(name: str) -> Model:
    """The random model as a headlens Model, one for all tests: runs leave it as it was."""
    return wrap(tiny_vlm(name), name=f"tiny-{name}")
