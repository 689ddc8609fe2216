"""Small inputs that make every tower of a model run once, and the towers found and checked by running them."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headlens.hooks.discover import Tower, find_towers, trace_forward
from headlens.hooks.intercept import evaluating
from headlens.hooks.selftest import check, check_finite
from headlens.hooks.sites import MAIN
from headlens.hooks.speaker import inner_speaker
from headlens.hooks.spread import input_device

N_TOKENS = 8


@dataclass(frozen=True, eq=False)
class _Part:
    """A model, or one that stands inside it, and what makes all of its layers run."""

    hf: Any
    path: str
    name: str
    inputs: Mapping[str, Any]


def find_all_towers(hf: PreTrainedModel) -> Mapping[str, Tower]:
    """The towers of a model, each traced on a small input and self-tested."""
    towers: dict[str, Tower] = {}
    # the same draw for every model, and none taken from the user's generator
    generator = torch.Generator().manual_seed(0)
    for part in _parts(hf, generator):
        with evaluating(part.hf):
            found = {tower.name: tower for tower in _traced(part)}
            check(part.hf, found, part.inputs)
        towers.update(found)
    if MAIN not in towers:
        raise ValueError(_refusal(hf))
    return {MAIN: towers.pop(MAIN), **towers}


def _parts(hf: PreTrainedModel, generator: torch.Generator) -> Iterator[_Part]:
    """The language model, and inside the whole what text alone does not reach: an image encoder, a Q-Former."""
    if "input_ids" not in _parameters(hf) and "pixel_values" in _parameters(hf):
        yield _Part(hf, "", MAIN, _picture(hf, generator))
        return
    # a model that cannot run without a picture has its language model inside
    path, main = (inner_speaker(hf) if "pixel_values" in _required(hf) else None) or ("", hf)
    yield _Part(main, path, MAIN, _text(main, generator))
    sees = asks = False
    for name, module in hf.named_modules():
        if module is hf or not isinstance(module, PreTrainedModel):
            continue
        known = _parameters(module)
        if not sees and "input_ids" not in known and ("grid_thw" in known or hasattr(module.config, "image_size")):
            inputs = _flat_picture(module, generator) if "grid_thw" in known else _picture(module, generator)
            # one that needs more than pixels is left out
            if sees := _required(module) <= {*inputs}:
                yield _Part(module, name, "vision", inputs)
        elif not asks and {"query_embeds", "encoder_hidden_states"} <= {*known}:
            asks = True
            yield _Part(module, name, "qformer", _question(module, generator))


def _parameters(hf: PreTrainedModel) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(hf.forward).parameters


def _required(hf: PreTrainedModel) -> set[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, one in _parameters(hf).items() if one.kind in named and one.default is one.empty}


def _picture(hf: PreTrainedModel, generator: torch.Generator) -> dict[str, Any]:
    config = hf.config
    size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    return {"pixel_values": _random(hf, generator, 1, getattr(config, "num_channels", 3), size, size)}


def _flat_picture(hf: PreTrainedModel, generator: torch.Generator) -> dict[str, Any]:
    """Qwen's layout: patches one behind the other, of a picture of 2 x 2 merged ones."""
    side, patch = 2 * hf.config.spatial_merge_size, hf.config.patch_size
    patch = patch if isinstance(patch, int) else patch[0]
    width = getattr(hf.config, "in_channels", 3) * hf.config.temporal_patch_size * patch**2
    grid = torch.tensor([[1, side, side]], device=input_device(hf))
    return {"hidden_states": _random(hf, generator, side**2, width), "grid_thw": grid}


def _question(hf: PreTrainedModel, generator: torch.Generator) -> dict[str, Any]:
    """Queries about 5 patches and, for a Q-Former that reads it too, with a text."""
    config = hf.config
    inputs: dict[str, Any] = {
        "query_embeds": _random(hf, generator, 1, 3, config.hidden_size),
        "encoder_hidden_states": _random(hf, generator, 1, 5, config.encoder_hidden_size),
    }
    return {**inputs, "input_ids": _ids(hf, generator)} if "input_ids" in _parameters(hf) else inputs


def _text(hf: PreTrainedModel, generator: torch.Generator) -> dict[str, Any]:
    ids = _ids(hf, generator)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in _parameters(hf):
        # without them transformers' ways to compute PaliGemma's attention differ
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if getattr(hf.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return inputs


def _ids(hf: PreTrainedModel, generator: torch.Generator) -> Tensor:
    embedding: Any = hf.get_input_embeddings()
    vocabulary = embedding.num_embeddings
    special = {getattr(hf.config, name, None) for name in ("image_token_id", "image_token_index", "video_token_id")}
    usable = torch.tensor([token for token in range(min(vocabulary, 4096)) if token not in special])
    draw = torch.randint(len(usable), (1, N_TOKENS), generator=generator)
    return usable[draw].to(input_device(hf))


def _random(hf: PreTrainedModel, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator).to(input_device(hf), hf.dtype)


def _traced(part: _Part) -> list[Tower]:
    # a model that builds its own masks fails on headlens's attention before any head is seen; that is a refusal
    if not part.hf._can_set_attn_implementation():
        raise ValueError(_refusal(part.hf))
    check_finite(part.hf, part.inputs)
    return find_towers(part.hf, trace_forward(part.hf, part.inputs), part.path, part.name)


def _refusal(hf: PreTrainedModel) -> str:
    return (
        f"{type(hf).__name__} is refused: its attention does not go through transformers' AttentionInterface, so its "
        "heads cannot be recorded or edited. "
        "Architectures such as Llama, GPT-2, GPT-NeoX, Qwen, Gemma, Mistral or OPT do."
    )
