"""Attention as its formula has it, registered with transformers under a name of its own: an independent way to edit
the attention pattern of any module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

_edits: dict[nn.Module, Callable[[Tensor], Tensor]] = {}


def _plain(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any):
    """[batch, head, pos, d] in, [batch, pos, head, d] out; a mask is added to the scores."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * given.get("scaling", query.shape[-1] ** -0.5)
    pattern = torch.softmax(scores if attention_mask is None else scores + attention_mask, -1)
    pattern = _edits.get(module, lambda same: same)(pattern)
    return (pattern @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), pattern


AttentionInterface.register("plain_test", _plain)
AttentionMaskInterface.register("plain_test", eager_mask)


@contextmanager
def plain_attention(hf: Any, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """`hf` computes its attention so; `edits` by module name change patterns [batch, head, query, key]."""
    hf.set_attn_implementation("plain_test")
    _edits.update({hf.get_submodule(name): edit for name, edit in edits.items()})
    try:
        yield
    finally:
        _edits.clear()


@contextmanager
def silenced(hf: Any, projection: str, head: int, d_head: int) -> Iterator[None]:
    """One head's z is 0, by a hook on the module of this name that reads all heads' z."""

    def hook(module: nn.Module, args: tuple) -> tuple:
        z = args[0].clone()
        z[..., head * d_head : (head + 1) * d_head] = 0
        return (z,)

    handle = hf.get_submodule(projection).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def modules_of(name: str, tower: str, layer: int) -> tuple[str, str]:
    """The names of the attention module and of its output projection, spelled out for each tiny model."""
    if tower == "main":
        if name == "instructblip":
            block, projection = f"language_model.model.decoder.layers.{layer}.self_attn", "out_proj"
        else:
            text = "text_model" if name == "idefics3" else "language_model"
            block, projection = f"model.{text}.layers.{layer}.self_attn", "o_proj"
        return block, f"{block}.{projection}"
    if tower == "vision":
        if name.startswith("qwen"):
            return f"model.visual.blocks.{layer}.attn", f"model.visual.blocks.{layer}.attn.proj"
        stack = {"idefics3": "model.vision_model", "instructblip": "vision_model"}.get(name, "model.vision_tower")
        block = f"{stack}.encoder.layers.{layer}.self_attn"
        return block, f"{block}.{'projection' if name == 'instructblip' else 'out_proj'}"
    # the Q-Former's blocks 0 and 2 have cross-attention
    block = f"qformer.encoder.layer.{2 * layer}.crossattention" if tower == "qformer_cross" else ""
    block = block or f"qformer.encoder.layer.{layer}.attention"
    return f"{block}.attention", f"{block}.output.dense"


@contextmanager
def kept_attention(hf: Any) -> Iterator[None]:
    """What each part of `hf` computes attention with, put back afterwards."""
    configs = {id(c): c for m in hf.modules() if (c := getattr(m, "config", None)) is not None}.values()
    before = [(config, config._attn_implementation) for config in configs]
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
