"""A LLaVA of two layers in which one head alone sees the picture: its keys are large and positive at image patches,
where those of all other heads are so negative that their attention there is 0 in float32.

Image patches have residual directions of their own, which no layer writes to, so text stays free of them but for what
the one head says. Every query has the same large component in the slowest pair of rotary dimensions, so it finds the
patches from anywhere.
"""

from typing import Any

import torch
import transformers as hf
from torch import nn

from headlens.hooks.model import wrap
from headlens.hooks.sites import Head
from tiny_models import IMAGE_TOKEN, VOCABULARY

LOOKER = Head(1, 2)
WIDTH, N_HEADS, D_HEAD = 32, 4, 8
_TEXT, _FLAG, _SLOW = 16, 24, 3


def planted_looker(seed=0):
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": N_HEADS,
        "intermediate_size": 48,
    }
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**sizes, image_size=16, patch_size=4),
        text_config=hf.LlamaConfig(vocab_size=VOCABULARY, **sizes, attention_bias=True),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
    )
    model = hf.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.25)
        model.model.language_model.embed_tokens.weight[:, _TEXT:] = 0
        picture = model.model.multi_modal_projector.linear_2
        picture.weight[:_TEXT], picture.weight[_FLAG:] = 0, 0
        picture.bias[:_TEXT], picture.bias[_TEXT:], picture.bias[_FLAG] = 0, 0, 3
        for at, layer in enumerate(model.model.language_model.layers):
            attention = layer.self_attn
            attention.o_proj.bias.zero_()
            attention.o_proj.weight[_TEXT:], layer.mlp.down_proj.weight[_TEXT:] = 0, 0
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                projection.bias.zero_()
            for head in range(N_HEADS):
                row = head * D_HEAD + _SLOW
                attention.q_proj.weight[row], attention.q_proj.bias[row] = 0, 10
                attention.k_proj.weight[row] = 0
                attention.k_proj.weight[row, _FLAG] = 20 if (at, head) == LOOKER else -20
    return wrap(model, name="planted looker")
