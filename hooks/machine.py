"""What a sweep finds out, on its way, about the machine it runs on."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from headlens.hooks.captured import Backend, Captured
from headlens.hooks.cuda_graphs import CudaGraphs
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


def capturing(model: Model, machine: Machine) -> Captured | None:
    """What captures this model's passes: it takes one GPU for the whole of it, with nothing moved during a run."""
    if machine.backend is not None:
        return Captured(machine.backend, machine.refused)
    devices = {device_of(layer.block) for layer in model.layers}
    device = devices.pop()
    if devices or device.type != "cuda" or is_placed(model.hf):
        return None
    return Captured(CudaGraphs(device), machine.refused)
