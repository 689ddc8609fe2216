"""Runs in which attention stays what it was in the base run, so that a change reaches what reads it only directly.

Where attention is frozen positions do not see each other: a change stays at its position. So these runs have nothing
but the changed positions as their rows, wherever these stand in the prompt. Cells enter as in a replay; what runs in
between is the MLPs, or nothing where these are frozen too, so that a change of the residual stream is passed on as it
is. At layers with receivers the attention is run up to its query, key and value, which are told to a `Hear`.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headlens.hooks.base_run import Base, BaseLayer
from headlens.hooks.entering import Entering, Entry, passing_on
from headlens.hooks.intercept import listening
from headlens.hooks.model import Model
from headlens.hooks.output import alone, first_tensor
from headlens.hooks.paths.frozen_attention import Forward, Front, Frozen, Hear
from headlens.hooks.reading import Read, Reading
from headlens.hooks.shadow import shadowed


def at_columns(base: Base, columns: Int[Tensor, " column"]) -> Base:
    """A kept run at some of its positions (counted from its start) alone; calls are left whole."""

    def rows(output: Any) -> Any:
        return alone(output, first_tensor(output)[:, columns])

    layers = tuple(
        BaseLayer(kept.resid_pre[:, columns], rows(kept.attention_out), kept.call, rows(kept.block_out))
        for kept in base.layers
    )
    return Base(base.tokens[:, base.start + columns], base.start, layers)


def with_mlps(
    model: Model,
    base: Base,
    entries: Mapping[int, Entry],
    positions: Int[Tensor, " column"],
    hear: Mapping[int, Hear],
    read: Read | None,
) -> Float[Tensor, "cell prompt row token"] | None:
    """Run the cells of `entries` through the MLPs, up to the last layer that `hear` names, or (with `read`) the logits.

    `base` is kept at `positions` alone. Cells come in ascending order of layers.
    """
    shadows: dict[nn.Module, Forward] = {}
    prompts, entered, last = len(base.tokens), 0, max(hear, default=model.n_layers - 1)
    for at, (layer, kept) in enumerate(zip(model.layers, base.layers, strict=True)):
        entry, original = entries.get(at), layer.block.forward
        if (not entered and entry is None) or at > last:
            shadows[layer.block] = passing_on(kept)
        elif at == last and at in hear:
            shadows[layer.block] = Front(layer.attention, kept, hear[at], None, original)
        else:
            shadows[layer.attention] = Frozen(layer.attention, kept, hear.get(at), layer.attention.forward)
            if at <= max(entries):
                running, everywhere = entered * prompts, slice(None)
                shadows[layer.block] = Entering(layer, kept, running, entry, 0, everywhere, None, original)
        entered += 0 if entry is None else len(entry)
    return _run(model, base, positions, shadows, read, entered)


def without_mlps(
    model: Model,
    base: Base,
    layers: list[int],
    changes: Float[Tensor, "_cell prompt column d_model"],
    positions: Int[Tensor, " column"],
    hear: Mapping[int, Hear],
    read: Read | None,
) -> Float[Tensor, "cell prompt row token"] | None:
    """The same with frozen MLPs: a cell that enters at `layers[cell]` adds its change to all of the stream above.

    Layers are in ascending order.
    """
    shadows: dict[nn.Module, Forward] = {}
    for at, (layer, kept) in enumerate(zip(model.layers, base.layers, strict=True)):
        shadows[layer.block] = passing_on(kept)
        if at in hear:
            reached = sum(entered < at for entered in layers)
            rows = (kept.resid_pre + changes[:reached]).flatten(0, 1)
            shadows[layer.block] = Front(layer.attention, kept, hear[at], rows, layer.block.forward)
    if read is not None:
        kept = base.layers[-1]
        standing = alone(kept.block_out, (first_tensor(kept.block_out) + changes).flatten(0, 1))
        shadows[model.layers[-1].block] = lambda *_, **__: standing
    return _run(model, base, positions, shadows, read, len(layers))


def _run(
    model: Model,
    base: Base,
    positions: Int[Tensor, " column"],
    shadows: Mapping[nn.Module, Forward],
    read: Read | None,
    cells: int,
) -> Float[Tensor, "cell prompt row token"] | None:
    unembedding, stand_ins = cast(Any, model.hf.get_output_embeddings()), dict(shadows)
    if read is None:
        # nobody reads the logits
        stand_ins[unembedding] = lambda hidden: hidden
    elif read.tokens is not None:
        stand_ins[unembedding] = Reading(unembedding, read, cells)
    # which tokens these are does not matter: their embeddings are never used
    ids = base.tokens.repeat(cells, 1)
    with torch.no_grad(), listening(model.hf), shadowed(stand_ins):
        logits = model.hf(input_ids=ids, position_ids=positions[None], use_cache=False, logits_to_keep=1).logits
    return None if read is None else logits[:, -1:].unflatten(0, (cells, len(base.tokens)))
