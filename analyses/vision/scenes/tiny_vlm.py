"""The small model that looks at scenes: LLaVA's architecture from transformers' own classes, and its processor."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from headlens.analyses.vision.scenes.scene_pictures import CELL, SIZE
from headlens.analyses.vision.scenes.scene_questions import words

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of questions, answers and descriptions; <bos> in front of every text."""
    vocabulary = {word: at for at, word in enumerate([*SPECIAL, *words()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    core.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=192,
    )


def tiny_processor() -> LlavaProcessor:
    """The tokenizer and what makes pixels of pictures: 48 by 48, from -1 (black) to 1, as `as_pixels` does."""
    halves = [0.5, 0.5, 0.5]
    pixels = CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, do_center_crop=False, image_mean=halves, image_std=halves
    )
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=tiny_tokenizer(),
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def tiny_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """The model untrained: 4 layers of 8 heads, 128 wide, over a CLIP tower of 2 layers of 4 heads, 96 wide.

    About one million weights. A picture of 48 pixels is 36 patches, one for each cell of a scene, and as many image
    tokens. Words in and out share their embedding.
    """
    ids = {word: at for at, word in enumerate(SPECIAL)}
    ends: dict[str, Any] = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<bos>"], "eos_token_id": ids["<eos>"]}
    text = LlamaConfig(
        vocab_size=len(SPECIAL) + len(words()),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=344,
        max_position_embeddings=192,
        tie_word_embeddings=True,
        initializer_range=0.08,
        **ends,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=SIZE,
        patch_size=CELL,
        projection_dim=96,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["<image>"],
        image_seq_length=(SIZE // CELL) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        # transformers leaves the embedding of padding at zero, where a norm has no gradient
        embedding = model.get_input_embeddings()
        nn.init.normal_(embedding.weight, std=0.08)  # pyright: ignore[reportArgumentType]
    return model.eval()
