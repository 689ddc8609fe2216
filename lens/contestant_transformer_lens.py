"""TransformerLens in a bench: its own `generic_activation_patch` on a TransformerBridge, one whole forward a cell."""

from collections.abc import Sequence

import pandas
import torch
from transformer_lens import patching

from headlens.bench_job import Cell, Job, Lap, Sweep
from headlens.hooks.bridge import to_bridge
from headlens.hooks.model import wrap
from headlens.peer_model import answer_minus_foil, load_plain, tokens
from headlens.stopwatch import timed


def prepare(job: Job) -> Sweep:
    """A function that patches the cells in the order given."""
    (clean, corrupted), measure = tokens(job), answer_minus_foil(job)
    bridge = to_bridge(wrap(load_plain(job), name=job.model))
    device = clean.device
    axes, put_in = ["layer", "head"], patching.layer_head_vector_patch_setter
    if "pos" in job.axes:
        axes, put_in = ["layer", "pos", "head"], patching.layer_pos_head_vector_patch_setter

    def sweep(cells: Sequence[Cell]) -> Lap:
        index = pandas.DataFrame({axis: [getattr(cell, axis) for cell in cells] for axis in axes})

        def before() -> tuple:
            _, clean_cache = bridge.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_z"))
            return clean_cache, measure(bridge(corrupted))

        with torch.no_grad():
            once, (cache, unpatched) = timed(device, before)
            took, measures = timed(
                device,
                lambda: patching.generic_activation_patch(
                    bridge, corrupted, cache, measure, put_in, "z", index_df=index
                ),
            )
        return Lap(once, took / len(cells), (measures - unpatched).tolist())

    return sweep
