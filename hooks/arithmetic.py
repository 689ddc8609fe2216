"""How much arithmetic patched cells need at the least: the yardstick for a sweep's speed."""

from collections.abc import Iterable

from torch import nn

from headlens.hooks.discover import Layer
from headlens.hooks.model import Model
from headlens.hooks.sites import Head


def least_flops(model: Model, cells: Iterable[Head], prompts: int, suffix: int, patched: int | None = None) -> int:
    """Floating-point operations, 2 per multiply-add, of the weight matrices that no exact method can spare.

    Each cell patches one head's z in `prompts` prompts and is read at the last of the `suffix` positions that can
    move; `patched` is at how many of them, from the first on, z is patched (None: all). A weight matrix counts for the
    rows that both move and are read later: only the patched positions until the next layer's attention spreads them,
    and in the last layer only the position that is read, but for keys and values. Counting weight matrices alone (no
    attention products, norms or unembedding) keeps this a lower bound.
    """
    patched = suffix if patched is None else patched
    last = model.n_layers - 1
    read_is_patched = patched == suffix

    def rows(at: int, moving: int, reaches_end: bool) -> int:
        """How many rows of layer `at` are worth computing if this many positions move."""
        return prompts * (moving if at < last else int(reaches_end))

    def from_layer(layer: int) -> int:
        total = rows(layer, patched, read_is_patched) * _outside(model.layers[layer])
        for at in range(layer + 1, model.n_layers):
            moving, reaches_end = (patched, read_is_patched) if at == layer + 1 else (suffix, True)
            queries, keys_and_values, projection = _inside(model, model.layers[at])
            total += rows(at, moving, reaches_end) * queries + prompts * moving * keys_and_values
            total += rows(at, suffix, True) * (projection + _outside(model.layers[at]))
        return 2 * total

    by_layer = [from_layer(layer) for layer in range(model.n_layers)]
    return sum(by_layer[cell.layer] for cell in cells)


def _outside(layer: Layer) -> int:
    """Weights of what follows the attention."""
    return _weights(layer.block) - _weights(layer.attention)


def _inside(model: Model, layer: Layer) -> tuple[int, int, int]:
    """Weights that make the queries, those that make keys and values, and those of the output projection."""
    projection, queries = _weights(layer.output_projection), model.d_model * model.n_heads * model.d_head
    return queries, _weights(layer.attention) - projection - queries, projection


def _weights(module: nn.Module) -> int:
    """Entries of all weight matrices inside a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)
