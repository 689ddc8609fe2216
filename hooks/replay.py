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
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.base_run import Base, BaseLayer, joining
from headlens.hooks.discover import Layer
from headlens.hooks.intercept import Attention, Listener, listening, placed
from headlens.hooks.model import Model
from headlens.hooks.output import alone, first_tensor
from headlens.hooks.shadow import shadowed


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
        layer.attention: keeping(joining(of_base.call, 1, base.start, 0))
        for layer, of_base in zip(model.layers, base.layers, strict=True)
    }
    logits = _run_suffix(model, tokens[:, base.start :], base.start, listeners, {})
    return logits[:, -1], [kept[layer.attention] for layer in model.layers]


def replay(
    model: Model,
    base: Base,
    patches: Mapping[int, Float[Tensor, "_cell prompt suffix d_model"]],
    start: int,
    read: Int[Tensor, "prompt token"],
) -> Float[Tensor, "cell prompt token"]:
    """Logits of the `read` tokens at the last position for all cells of `patches`, in ascending order of layers.

    `patches[layer]` is what its cells add to that layer's attention output, from position `start` on. One pass serves
    all: cells of a later layer enter the batch where their layer is reached.
    """
    layers, (first, last) = model.layers, (min(patches), max(patches))
    prompts, skip, entered = len(read), start - base.start, 0
    shadows: dict[nn.Module, Callable[..., Any]] = {}
    listeners: dict[nn.Module, Listener] = {}
    for at, (layer, kept) in enumerate(zip(layers, base.layers, strict=True)):
        if entered:
            listeners[layer.attention] = joining(kept.call, entered, start, skip)
        if at < first:
            shadows[layer.block] = _passing_on(kept)
        elif at <= last or at == len(layers) - 1:
            delta = patches.get(at)
            shadows[layer.block] = _entering(layer, kept, entered * prompts, delta, skip, at == len(layers) - 1)
            entered += 0 if delta is None else len(delta)
    unembedding: Any = model.hf.get_output_embeddings()
    shadows[unembedding] = _reading(unembedding, read, entered)
    # which tokens these are does not matter: their embeddings are never used
    ids = base.tokens[:, start:].repeat(entered, 1)
    return _run_suffix(model, ids, start, listeners, shadows).reshape(entered, prompts, -1)


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
    return lambda hidden, *args, **kwargs: alone(kept.block_out, hidden)


def _entering(
    layer: Layer, kept: BaseLayer, running: int, delta: Tensor | None, skip: int, is_last: bool
) -> Callable[..., Any]:
    """A block at which cells enter the batch, or the last one.

    The first `running` rows have come from below. A cell that enters needs no attention: its block's input is the kept
    one, its attention's output is the kept one plus its delta. In the last block, what follows the attention is only
    computed at the position that is read. Rows behind those are not touched: their cells enter later.
    """
    original, attention = layer.block.forward, layer.attention.forward
    new = () if delta is None else ((first_tensor(kept.attention_out)[:, skip:] + delta).flatten(0, 1),)
    new_in = () if delta is None else (kept.resid_pre[:, skip:].repeat(len(delta), 1, 1),)
    wanted = slice(-1, None) if is_last else slice(None)

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        attended: list[Tensor] = []

        def attend_and_stop(*args: Any, **kwargs: Any) -> Any:
            attended.append(first_tensor(attention(*args, **kwargs)))
            raise _Attended

        if running:
            with shadowed({layer.attention: attend_and_stop}), suppress(_Attended):
                original(hidden[:running], *args, **kwargs)
        attention_out = alone(kept.attention_out, torch.cat([*attended, *new])[:, wanted])
        with shadowed({layer.attention: lambda *_, **__: attention_out}):
            output = original(torch.cat([hidden[:running], *new_in])[:, wanted], *args, **kwargs)
        # models check that a block returns every position, and later blocks expect every row
        known = first_tensor(output).expand(-1, hidden.shape[1], -1)
        return alone(output, torch.cat([known, hidden[len(known) :]]))

    return forward


class _Attended(Exception):
    """Leaves a block once its attention is done."""


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
