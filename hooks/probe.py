"""Small inputs that make every tower of a model run once, and the towers found and checked by running them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from headlens.hooks.discover import Tower, find_towers, trace_forward
from headlens.hooks.intercept import evaluating
from headlens.hooks.selftest import check, check_finite
from headlens.hooks.sites import MAIN
from headlens.hooks.spread import input_device

N_TOKENS = 8


def find_all_towers(hf: PreTrainedModel) -> Mapping[str, Tower]:
    """The towers of a model, each traced on a small input and self-tested."""
    towers: dict[str, Tower] = {}
    # the same draw for every model, and none taken from the user's generator
    generator = torch.Generator().manual_seed(0)
    for part, prefix in _parts(hf):
        inputs = _inputs(part, generator)
        with evaluating(part):
            found = {tower.name: tower for tower in _traced(part, prefix, inputs)}
            check(part, found, inputs)
        towers.update(found)
    if MAIN not in towers:
        raise ValueError(_refusal(hf))
    return {MAIN: towers.pop(MAIN), **towers}


def _parts(hf: PreTrainedModel) -> Iterator[tuple[PreTrainedModel, str]]:
    """The model itself, and the image encoders inside it, which text alone does not reach."""
    yield hf, ""
    if hf.main_input_name != "pixel_values":
        for name, module in hf.named_modules():
            inside = isinstance(module, PreTrainedModel) and module is not hf
            if inside and module.main_input_name == "pixel_values" and hasattr(module.config, "image_size"):
                yield module, name
                return


def _inputs(hf: PreTrainedModel, generator: torch.Generator) -> dict[str, Any]:
    config = hf.config
    if hf.main_input_name == "pixel_values":
        size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        pixels = torch.randn(1, getattr(config, "num_channels", 3), size, size, generator=generator)
        return {"pixel_values": pixels.to(input_device(hf), hf.dtype)}
    embedding: Any = hf.get_input_embeddings()
    vocabulary = embedding.num_embeddings
    special = {getattr(config, name, None) for name in ("image_token_id", "image_token_index", "video_token_id")}
    usable = torch.tensor([token for token in range(min(vocabulary, 4096)) if token not in special])
    draw = torch.randint(len(usable), (1, N_TOKENS), generator=generator)
    ids = usable[draw].to(input_device(hf))
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return inputs


def _traced(part: PreTrainedModel, prefix: str, inputs: Mapping[str, Any]) -> list[Tower]:
    # a model that builds its own masks fails on headlens's attention before any head is seen; that is a refusal
    if not part._can_set_attn_implementation():
        raise ValueError(_refusal(part))
    check_finite(part, inputs)
    return find_towers(part, trace_forward(part, inputs), prefix)


def _refusal(hf: PreTrainedModel) -> str:
    return (
        f"{type(hf).__name__} is refused: its attention does not go through transformers' AttentionInterface, so its "
        "heads cannot be recorded or edited. "
        "Architectures such as Llama, GPT-2, GPT-NeoX, Qwen, Gemma, Mistral or OPT do."
    )
