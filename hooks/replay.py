"""The sweep engine: recompute only what a patch can change, and get the whole forward's answer.

One plain run of the prompts is kept (`record_base`): each layer's residual stream, attention output, keys, values
and z. A patched cell then needs no work before the first changed position (causality: earlier keys and values are
shared), none below the patched layer (it starts from the kept residual), no attention in the patched layer (its
output is the kept one plus `(z_source - z_base) @ W_O[head]`), and no unembedding beyond the tokens that are read.

All of it runs through the model's own forward on the short suffix, with a few modules shadowed (`hooks/shadow.py`):
blocks below the patched one pass their input on, the attention layers above join the shared prefix to each
variant's suffix, and the unembedding computes the asked columns. So an architecture needs no code here, and
`hooks/sweep.py` proves it on real cells before it trusts it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.discover import Layer
from headlens.hooks.intercept import Attention, Listener, listening, placed
from headlens.hooks.model import Model
from headlens.hooks.output import first_tensor
from headlens.hooks.shadow import shadowed
from headlens.kernels.reference import shared_prefix_attention


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


def _alone(output: Any, tensor: Tensor) -> Any:
    """The same kind of return value with other hidden states; its companions (weights, cache) become None."""
    return tensor if isinstance(output, Tensor) else (tensor, *(None for _ in output[1:]))


def bytes_per_prompt(model: Model, length: int) -> int:
    """An upper estimate of what a base run and a source run keep of one prompt of `length` tokens."""
    heads, kv_heads = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
    floats = 2 * model.n_layers * length * (3 * model.d_model + 2 * heads + 2 * kv_heads)
    return floats * model.dtype.itemsize


def record_base(model: Model, tokens: Int[Tensor, "prompt pos"], start: int) -> Base:
    """Run `tokens` once and keep what replaying from position `start` needs."""
    kept: dict[tuple[str, nn.Module], Any] = {}

    def listen(module: nn.Module, call: Attention) -> tuple[Tensor, None]:
        allowed = call.allowed()
        if allowed is None:
            allowed = torch.ones(1, 1, 1, tokens.shape[1], dtype=torch.bool, device=tokens.device)
        allowed = allowed.expand(-1, -1, tokens.shape[1], -1)[:, :, start:]
        kept["call", module] = replace(call, query=call.query[:, :, start:], mask=allowed)
        return call.z(), None

    def keep_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        kept["in", module] = (args[0] if args else kwargs["hidden_states"])[:, start:]

    def keep_output(module: nn.Module, args: tuple, output: Any) -> None:
        kept["out", module] = _alone(output, first_tensor(output)[:, start:])

    handles = []
    try:
        for layer in model.layers:
            handles.append(layer.block.register_forward_pre_hook(keep_input, with_kwargs=True))
            handles += [m.register_forward_hook(keep_output) for m in (layer.block, layer.attention)]
        listeners = {layer.attention: listen for layer in model.layers}
        with torch.no_grad(), listening(model.hf), placed(listeners):
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


def run_from(
    model: Model, base: Base, tokens: Int[Tensor, "prompt pos"]
) -> tuple[Float[Tensor, "prompt vocabulary"], list[Float[Tensor, "prompt suffix head d_head"]]]:
    """Logits at the last position, and each layer's z, of prompts that agree with the base run's before its start."""
    kept: dict[nn.Module, Tensor] = {}

    def keeping(joined: Listener) -> Listener:
        def listen(module: nn.Module, call: Attention) -> tuple[Tensor, Tensor | None]:
            kept[module] = joined(module, call)[0]
            return kept[module], None

        return listen

    listeners = {
        layer.attention: keeping(_joining(of_base.call, 1, base.start, 0))
        for layer, of_base in zip(model.layers, base.layers, strict=True)
    }
    logits = _run_suffix(model, tokens[:, base.start :], base.start, listeners, {})
    return logits[:, -1], [kept[layer.attention] for layer in model.layers]


def replay(
    model: Model,
    base: Base,
    layer: int,
    start: int,
    delta: Float[Tensor, "cell prompt suffix d_model"],
    read: Int[Tensor, "prompt token"],
) -> Float[Tensor, "cell prompt token"]:
    """Logits of the `read` tokens at the last position, with `delta` added to layer `layer`'s attention output.

    `delta` covers positions `start`.. of the prompts; one row per cell.
    """
    cells, prompts, suffix, _ = delta.shape
    skip, last = start - base.start, model.n_layers - 1
    shadows: dict[nn.Module, Callable[..., Any]] = {
        model.layers[below].block: _passing_on(base.layers[below]) for below in range(layer)
    }
    shadows[model.layers[layer].block] = _starting(model.layers[layer], base.layers[layer], delta, skip, layer == last)
    if layer < last:
        shadows[model.layers[last].block] = _ending(model.layers[last])
    unembedding: Any = model.hf.get_output_embeddings()
    shadows[unembedding] = _reading(unembedding, read, cells)
    listeners = {
        model.layers[above].attention: _joining(base.layers[above].call, cells, start, skip)
        for above in range(layer + 1, model.n_layers)
    }
    # which tokens these are does not matter: their embeddings are never used
    ids = base.tokens[:, start:].repeat(cells, 1)
    return _run_suffix(model, ids, start, listeners, shadows).reshape(cells, prompts, -1)


def _run_suffix(
    model: Model,
    ids: Int[Tensor, "row suffix"],
    start: int,
    listeners: Mapping[nn.Module, Listener],
    shadows: Mapping[nn.Module, Callable[..., Any]],
) -> Float[Tensor, "row 1 token"]:
    """The model's own forward on the positions from `start` on."""
    positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
    with torch.no_grad(), listening(model.hf), placed(listeners), shadowed(shadows):
        return model.hf(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1).logits


def _passing_on(kept: BaseLayer) -> Callable[..., Any]:
    """A block below the patch: nothing to compute."""
    return lambda hidden, *args, **kwargs: _alone(kept.block_out, hidden)


def _starting(layer: Layer, kept: BaseLayer, delta: Tensor, skip: int, is_last: bool) -> Callable[..., Any]:
    """The patched block: its input and its attention's output are known, only the rest is computed."""
    original, (cells, _, suffix, _) = layer.block.forward, delta.shape
    attention_out = (first_tensor(kept.attention_out)[:, skip:] + delta).flatten(0, 1)
    resid_pre = kept.resid_pre[:, skip:].repeat(cells, 1, 1)
    if is_last:
        attention_out, resid_pre = attention_out[:, -1:], resid_pre[:, -1:]

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        with shadowed({layer.attention: lambda *_, **__: _alone(kept.attention_out, attention_out)}):
            return _spread(original(resid_pre, *args, **kwargs), suffix)

    return forward


def _ending(layer: Layer) -> Callable[..., Any]:
    """The last block: attention needs every position, what follows only the one that is read."""
    original, attention = layer.block.forward, layer.attention.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        attended: list[Any] = []

        def attend_and_stop(*args: Any, **kwargs: Any) -> Any:
            attended.append(attention(*args, **kwargs))
            raise _Attended

        with shadowed({layer.attention: attend_and_stop}), suppress(_Attended):
            original(hidden, *args, **kwargs)
        read = _alone(attended[0], first_tensor(attended[0])[:, -1:])
        with shadowed({layer.attention: lambda *_, **__: read}):
            return _spread(original(hidden[:, -1:], *args, **kwargs), hidden.shape[1])

    return forward


def _spread(output: Any, suffix: int) -> Any:
    """Give a block's output its full length back where only the last position was computed: models check it."""
    return _alone(output, first_tensor(output).expand(-1, suffix, -1))


class _Attended(Exception):
    """Leaves the last block once its attention is done."""


def _joining(kept: Attention, cells: int, start: int, skip: int) -> Listener:
    """A listener that lets every variant's suffix read the one kept prefix."""

    prefix_key, prefix_value = kept.key[:, :, :start], kept.value[:, :, :start]
    assert kept.mask is not None  # record_base makes one
    mask = kept.mask[:, :, skip:]

    def listen(module: nn.Module, call: Attention) -> tuple[Tensor, None]:
        if call.softcap is None and call.sinks is None and call.bias is None and mask.shape[1] == 1:
            query, key, value = (tensor.unflatten(0, (cells, -1)) for tensor in (call.query, call.key, call.value))
            z = shared_prefix_attention(query, key, value, prefix_key, prefix_value, mask, call.scaling)
            return z.flatten(0, 1), None
        key = torch.cat([prefix_key.repeat(cells, 1, 1, 1), call.key], 2)
        value = torch.cat([prefix_value.repeat(cells, 1, 1, 1), call.value], 2)
        every = mask if len(mask) == 1 else mask.repeat(cells, 1, 1, 1)
        return replace(call, key=key, value=value, mask=every).z(), None

    return listen


def _reading(unembedding: Any, read: Tensor, cells: int) -> Callable[[Tensor], Tensor]:
    """The unembedding of each prompt's own `read` tokens at the last position."""
    weight: Tensor = unembedding.weight[read]  # prompt token d_model
    bias = getattr(unembedding, "bias", None)

    def forward(hidden: Tensor) -> Tensor:
        last = hidden[:, -1].reshape(cells, len(read), -1)
        logits = torch.einsum("cpd,ptd->cpt", last, weight)
        if bias is not None:
            logits = logits + bias[read]
        return logits.reshape(hidden.shape[0], 1, -1)

    return forward
