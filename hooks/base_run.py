"""One plain run of prompts, with what a replay from some position on needs of it."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.intercept import Attention, listening, placed
from headlens.hooks.model import Model
from headlens.hooks.output import alone, first_tensor
from headlens.hooks.shadow import shadowed
from headlens.kernels.operations import shared_prefix_attention


@dataclass(frozen=True, eq=False)
class BaseLayer:
    """What one layer left behind in the plain run."""

    resid_pre: Float[Tensor, "prompt suffix d_model"]
    attention_out: Any  # the attention module's own return value, trimmed to the suffix
    call: Attention  # query of the suffix, keys and values of all positions, boolean mask of the suffix
    block_out: Any


@dataclass(frozen=True, eq=False)
class Base:
    """A plain run of same-length prompts, kept from position `start` on."""

    tokens: Int[Tensor, "prompt pos"]
    start: int
    layers: tuple[BaseLayer, ...]


def bytes_per_prompt(model: Model, length: int, site: str = "z") -> int:
    """An upper estimate of what a base run and the two runs of a site keep of one prompt of `length` tokens."""
    heads, kv_heads = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
    kept = 3 * model.d_model + heads + 2 * kv_heads
    recorded = {"pattern": model.n_heads * length, "attn_scores": model.n_heads * length}
    floats = model.n_layers * length * (2 * kept + 2 * recorded.get(site, max(heads, model.d_model)))
    return floats * model.dtype.itemsize


def record_base(model: Model, tokens: Int[Tensor, "prompt pos"], start: int) -> Base:
    """Run `tokens` once and keep what replaying from position `start` needs."""
    kept: dict[tuple[str, nn.Module], Any] = {}

    def listen(module: nn.Module, call: Attention) -> tuple[Tensor, None]:
        allowed = call.allowed()
        if allowed is None:
            allowed = torch.ones(1, 1, 1, tokens.shape[1], dtype=torch.bool, device=call.query.device)
        allowed = allowed.expand(-1, -1, tokens.shape[1], -1)[:, :, start:]
        kept["call", module] = replace(call, query=call.query[:, :, start:], mask=allowed)
        return call.z(), None

    def keep_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        kept["in", module] = (args[0] if args else kwargs["hidden_states"])[:, start:]

    def keep_output(module: nn.Module, args: tuple, output: Any) -> None:
        kept["out", module] = alone(output, first_tensor(output)[:, start:])

    handles = []
    try:
        for layer in model.layers:
            handles.append(layer.block.register_forward_pre_hook(keep_input, with_kwargs=True))
            handles += [m.register_forward_hook(keep_output) for m in (layer.block, layer.attention)]
        listeners = {layer.attention: listen for layer in model.layers}
        # nobody reads the logits
        unread = {cast(nn.Module, model.hf.get_output_embeddings()): lambda hidden: hidden}
        with torch.no_grad(), listening(model.hf), placed(listeners), shadowed(unread):
            model.hf(input_ids=tokens, use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    layers = tuple(
        BaseLayer(
            resid_pre=kept["in", layer.block],
            attention_out=kept["out", layer.attention],
            call=kept["call", layer.attention],
            block_out=kept["out", layer.block],
        )
        for layer in model.layers
    )
    return Base(tokens, start, layers)


def from_row(kept: Attention, skip: int) -> Attention:
    """The kept call without its first `skip` queries."""
    assert kept.mask is not None  # record_base makes one
    return replace(kept, query=kept.query[:, :, skip:], mask=kept.mask[:, :, skip:])


def joined(kept: Attention, call: Attention, cells: int, start: int, skip: int) -> Attention:
    """The call of `cells` variants' suffix, from `start` on, with the kept prefix put before its keys and values.

    `skip` is how far `start` lies behind the start of the kept run.
    """
    assert kept.mask is not None  # record_base makes one
    key = torch.cat([kept.key[:, :, :start].repeat(cells, 1, 1, 1), call.key], 2)
    value = torch.cat([kept.value[:, :, :start].repeat(cells, 1, 1, 1), call.value], 2)
    mask = kept.mask[:, :, skip:]
    every = mask if len(mask) == 1 else mask.repeat(cells, 1, 1, 1)
    return replace(call, key=key, value=value, mask=every)


@dataclass(frozen=True, eq=False)
class Joining:
    """A listener that lets every variant's suffix, from `start` on, read the one kept prefix."""

    kept: Attention
    cells: int
    start: int
    skip: int

    def __call__(self, module: nn.Module, call: Attention) -> tuple[Tensor, None]:
        assert self.kept.mask is not None  # record_base makes one
        mask = self.kept.mask[:, :, self.skip :]
        if call.softcap is None and call.sinks is None and call.bias is None and mask.shape[1] == 1:
            query, key, value = (each.unflatten(0, (self.cells, -1)) for each in (call.query, call.key, call.value))
            prefix_key, prefix_value = (each[:, :, : self.start] for each in (self.kept.key, self.kept.value))
            z = shared_prefix_attention(query, key, value, prefix_key, prefix_value, mask, call.scaling)
            return z.flatten(0, 1), None
        return self.whole(call).z(), None

    def whole(self, call: Attention) -> Attention:
        """The call with the prefix's keys and values put in front."""
        return joined(self.kept, call, self.cells, self.start, self.skip)
