"""Replay: recompute only what a patch can change, and get the whole forward's answer.

One plain run of the prompts is kept (`record_base`): each layer's residual stream, attention output, keys and values.
A patched cell then needs no work before the first changed position (causality: earlier keys and values are
shared), none below the patched layer (it starts from the kept residual), where the patch lies behind the attention no
attention in the patched layer (its output is the kept one plus, say, `(z_source - z_base) @ W_O[head]`), and no
unembedding beyond the positions and tokens that are read.

All of it runs through the model's own forward on the short suffix, with a few modules shadowed (`hooks/shadow.py`):
blocks below the patched one pass their input on, the attention layers above join the shared prefix to each
variant's suffix, and the unembedding computes the asked columns. So an architecture needs no code here, and
`hooks/trial.py` proves it on real cells before a sweep trusts it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headlens.hooks.base_run import Base, Joining
from headlens.hooks.entering import Entering, Entry, passing_on
from headlens.hooks.intercept import Listener
from headlens.hooks.model import Model
from headlens.hooks.reading import Read, Reading
from headlens.hooks.suffix_run import run_suffix

# Given the listener of a layer and how many cells have entered, a listener that also patches those that ask for it.
Wrapping = Callable[[Listener], Listener]


def replay(
    model: Model, base: Base, entries: Mapping[int, Entry], start: int, read: Read, later: Mapping[int, Wrapping]
) -> Float[Tensor, "cell prompt row token"]:
    """Logits for all cells of `entries`, in ascending order of layers; all of one kind of place.

    `entries[layer]` are the cells that enter there (`n_layers`: behind the last block). One pass serves all: cells of a
    later layer enter the batch where their layer is reached. `later[layer]` patches cells again on their way up.
    """
    prompts, skip, first, final = len(base.tokens), start - base.start, min(entries), model.n_layers - 1
    shadows: dict[nn.Module, Callable[..., Any]] = {}
    listeners: dict[nn.Module, Listener] = {}
    entered = 0
    for at, (layer, kept) in enumerate(zip(model.layers, base.layers, strict=True)):
        entry, beyond = entries.get(at), entries.get(at + 1) if at == final else None
        attending = entered + (len(entry) if entry is not None and entry.place == "block" else 0)
        if attending:
            listener = Joining(kept.call, attending, start, skip)
            listeners[layer.attention] = later[at](listener) if at in later else listener
        if at < first and beyond is None:
            shadows[layer.block] = passing_on(kept)
        elif at <= max(entries) or at == final:
            wanted = slice(-read.last if at == final else None, None)
            running = entered * prompts
            shadows[layer.block] = Entering(
                layer, kept, running, entry, skip, wanted, beyond, original=layer.block.forward
            )
        entered += sum(len(some) for some in (entry, beyond) if some is not None)
    unembedding: Any = model.hf.get_output_embeddings()
    if read.tokens is not None:
        shadows[unembedding] = Reading(unembedding, read, entered)
    # which tokens these are does not matter: their embeddings are never used
    ids = base.tokens[:, start:].repeat(entered, 1)
    return run_suffix(model, ids, start, listeners, shadows, read.last).unflatten(0, (entered, prompts))
