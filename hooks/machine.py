"""What a sweep finds out, on its way, about the machine it runs on."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from headlens.hooks.captured import Backend, Captured
from headlens.hooks.cuda_graphs import CudaGraphs
from headlens.hooks.halving import in_batches
from headlens.hooks.model import Model
from headlens.hooks.spread import device_of, is_placed


@dataclass(eq=False)
class Machine:
    """One for all groups of prompts of a sweep.

    For a batch of more than `most_rows` the memory did not suffice (None: it always did). `backend` captures passes;
    None means CUDA graphs, where they can be had.
    """

    most_rows: int | None = None
    refused: dict[Hashable, str] = field(default_factory=dict)
    backend: Backend | None = None

    def in_batches(self, items: list[int], limit: int, rows: int, do: Callable[[list[int]], None], alone: str) -> None:
        """`halving.in_batches` of items that have `rows` rows each, of no more than are known to fit."""
        if self.most_rows is not None:
            limit = max(1, min(limit, self.most_rows // rows))
        left = in_batches(items, limit, do, alone)
        if left < limit:
            self.most_rows = left * rows


def capturing(model: Model, machine: Machine) -> Captured | None:
    """What captures this model's passes: it takes one GPU for the whole of it, with nothing moved during a run."""
    if machine.backend is not None:
        return Captured(machine.backend, machine.refused)
    devices = {device_of(layer.block) for layer in model.layers}
    device = devices.pop()
    if devices or device.type != "cuda" or is_placed(model.hf):
        return None
    return Captured(CudaGraphs(device), machine.refused)
