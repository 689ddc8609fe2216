"""Is the cache of this step the one that the run has filled so far? Asked for edits that remember earlier rows."""

import torch

from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention


def follow(clock: Clock, layer: int, call: Attention, key_start: int) -> None:
    """Note where the layer's keys end, and refuse a step whose cache does not end where the last one left it."""
    memory = clock.memory.setdefault(("history", layer), {})
    newest = clock.past + call.query.shape[2] - 1 - key_start
    if clock.past:
        if memory.get("read") != clock.past:
            raise ValueError(
                f"This cache holds {clock.past} tokens that were read outside the edit, which depends on every row of "
                "a run (attention received so far); start the run inside the edit."
            )
        last = newest - call.query.shape[2]
        if last >= 0 and not torch.equal(call.key[:, :, last], memory["key"]):
            raise ValueError(
                "The prompts in this cache changed their order between two steps (beam search does so), and the edit "
                "depends on every row of a prompt; generate without beams, or use a group that looks at no other rows."
            )
    memory["read"], memory["key"] = clock.past + call.query.shape[2], call.key[:, :, newest].detach().clone()
