"""The same activation-patching sweep by headlens and by its peers, each as a function that runs it once, timed.

All patch z of single heads at all positions of the corrupted run (denoising) and report, for the cells they were given,
by how many logits the mean answer-minus-foil difference moves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.patching import patch_sweep
from headlens.analyses.tasks import Task
from headlens.hooks.bridge import to_bridge
from headlens.hooks.model import Model
from headlens.hooks.sites import Head
from headlens.quiet import quiet_stderr
from headlens.stopwatch import seconds


@dataclass(frozen=True, eq=False)
class Lap:
    """One timed sweep: what comes once, what each cell takes, and each cell's effect in logits."""

    seconds_before: float
    seconds_a_cell: float
    effects: np.ndarray

    def seconds_for(self, cells: int) -> float:
        """What a sweep over so many cells takes at this pace."""
        return self.seconds_before + cells * self.seconds_a_cell


Contestant = Callable[[], Lap]


def headlens(model: Model, task: Task, cells: Sequence[Head]) -> Contestant:
    """`patch_sweep` over all heads, from its first check to its HeadMap; the effects are those of `cells`."""

    def run() -> Lap:
        maps = []
        took = seconds(model.device, lambda: maps.append(patch_sweep(model, task, progress=False)))
        moved = maps[0].samples.mean(0)
        return Lap(0.0, took / moved.size, np.array([moved[cell] for cell in cells]))

    return run


def transformer_lens(model: Model, task: Task, cells: Sequence[Head]) -> Contestant:
    """TransformerLens's `generic_activation_patch` on a bridge over the same weights: one whole forward a cell.

    ValueError for prompts of several lengths, which its patching does not take.
    """
    import pandas
    from transformer_lens import patching

    if len(set(task.lengths.tolist())) > 1:
        raise ValueError("TransformerLens patches prompts of one length; bench a task whose prompts have one.")
    bridge, rows = to_bridge(model), torch.arange(len(task))
    clean, corrupted = task.clean_tokens.to(model.device), task.corrupted_tokens.to(model.device)
    index = pandas.DataFrame(cells, columns=["layer", "head"])

    def metric(logits: Float[Tensor, "prompt pos vocabulary"]) -> Float[Tensor, ""]:
        last = logits[:, -1]
        return (last[rows, task.answers] - last[rows, task.foils]).mean()

    def run() -> Lap:
        kept = {}

        def before() -> None:
            _, kept["cache"] = bridge.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_z"))
            kept["unpatched"] = metric(bridge(corrupted))

        def patch() -> None:
            kept["patched"] = patching.generic_activation_patch(
                bridge, corrupted, kept["cache"], metric, patching.layer_head_vector_patch_setter, "z", index_df=index
            )

        # its progress bar has no switch
        with torch.no_grad(), quiet_stderr():
            once, each = seconds(model.device, before), seconds(model.device, patch) / len(cells)
        return Lap(once, each, (kept["patched"] - kept["unpatched"]).cpu().numpy())

    return run
