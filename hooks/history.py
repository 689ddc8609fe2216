"""Is the cache of this step the one that the run has filled so far? Asked for edits that remember earlier rows."""

from collections.abc import Sequence

import torch

from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention
from headlens.hooks.steps import Step


def follow(clock: Clock, layer: int, call: Attention, key_start: int, steps: Sequence[Step]) -> None:
    """Note the layer's keys and who saw them, and refuse a step whose cache is not what the last one left.

    All keys are compared: two beams may well end in the same token.
    """
    memory = clock.memory.setdefault(("history", layer), {})
    end = clock.past + call.query.shape[2]
    if clock.past:
        if memory.get("end") != clock.past or not {*steps} <= memory["steps"]:
            raise ValueError(
                f"This cache holds {clock.past} tokens whose last step was not this run's own, and the edit depends on "
                "everything that a run read before; start the run inside the edit, and go on step by step."
            )
        # a sliding window has forgotten the oldest of them
        kept = memory["keys"][:, :, key_start - memory["start"] :]
        if not torch.equal(call.key[:, :, : clock.past - key_start], kept):
            raise ValueError(
                "The prompts in this cache are not those of the last step in the same order (beam search changes it), "
                "and the edit depends on everything that each prompt read before; generate without beams, or use a "
                "group that needs no earlier tokens or rows, such as positions."
            )
    keys = call.key[:, :, : end - key_start].detach().clone()
    memory.update(end=end, start=key_start, keys=keys, steps={*steps} if clock.past == 0 else memory["steps"])
