"""Random models of a few thousand weights, one per architecture, made in process from transformers' own configurations.

Weights are scaled up so that attention is far from uniform and an edit moves the logits visibly.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from headlens.hooks.model import Model, wrap

VOCABULARY = 120
IMAGE_TOKEN = 99
N_IMAGE_TOKENS = 16
_SPECIAL: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    **_SPECIAL,
}
_PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_GPT2_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    **_SPECIAL,
}
_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
_IMAGE: dict[str, Any] = {"image_size": 16, "patch_size": 4}


def _llava() -> nn.Module:
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**_PLAIN, **_IMAGE),
            text_config=hf.LlamaConfig(**_LLAMA_LIKE),
            image_token_index=IMAGE_TOKEN,
            vision_feature_layer=-1,
        )
    )


_BUILDERS = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT2_LIKE)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(vocab_size=VOCABULARY, **_PLAIN, **_SPECIAL, max_position_embeddings=64)
    ),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA_LIKE)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_LLAMA_LIKE, head_dim=8)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_LLAMA_LIKE, head_dim=8, sliding_window=5)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**_LLAMA_LIKE, head_dim=8, sliding_window=5, layer_types=_WINDOWS)
    ),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_LLAMA_LIKE, sliding_window=6)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            ffn_dim=48,
            word_embed_proj_dim=32,
            max_position_embeddings=64,
            **_SPECIAL,
        )
    ),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_LLAMA_LIKE)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_LLAMA_LIKE)),
    "gpt_oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(
            **_LLAMA_LIKE,
            head_dim=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=5,
            layer_types=_WINDOWS,
        )
    ),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=3,
            num_heads=4,
            decoder_start_token_id=1,
        )
    ),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(vocab_size=VOCABULARY, **_PLAIN)),
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**_PLAIN, **_IMAGE)),
    "clip_vision": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**_PLAIN, **_IMAGE)),
    "llava": _llava,
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global"], 2]],
            **_SPECIAL,
        )
    ),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**_GPT2_LIKE, rotary_dim=4)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)),
    "falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    ),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4)),
    "codegen": lambda: hf.CodeGenForCausalLM(hf.CodeGenConfig(**_GPT2_LIKE, rotary_dim=4)),
}

GENERATING = (
    "gpt2",
    "gpt_neox",
    "llama",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "opt",
    "phi3",
    "cohere",
    "gpt_oss",
)
HELD = (*GENERATING, "t5", "bert", "vit", "clip_vision", "llava")
REFUSED = ("gpt_neo", "gptj", "bloom", "falcon", "mpt", "codegen")


def tiny(name: str, seed: int = 0) -> hf.PreTrainedModel:
    """A random model of the named architecture, in evaluation mode."""
    return drawn(_BUILDERS[name], seed)


def drawn(build: Callable[[], Any], seed: int) -> hf.PreTrainedModel:
    """What `build` makes, in evaluation mode, with all matrices drawn by the seed and scaled up."""
    hf.logging.set_verbosity_error()
    torch.manual_seed(seed)
    model = build()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.25)
    return model.eval()


@cache
def held(name: str) -> Model:
    """The random model of the named architecture as a headlens Model, one for all tests: runs leave it as it was."""
    return wrap(tiny(name), name=f"tiny-{name}")


def inputs_for(name: str, batch: int = 2, length: int = 11, seed: int = 1) -> dict[str, Tensor]:
    """Inputs that run every part of the named architecture."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 3, 16, 16, generator=draw)
    if name in ("vit", "clip_vision"):
        return {"pixel_values": pixels}
    ids = torch.randint(4, 90, (batch, length), generator=draw)
    if name == "t5":
        return {"input_ids": ids, "decoder_input_ids": ids.flip(1)}
    if name == "llava":
        return {
            "input_ids": torch.cat([torch.full((batch, N_IMAGE_TOKENS), IMAGE_TOKEN), ids], 1),
            "pixel_values": pixels,
        }
    return {"input_ids": ids}
