"""`Changes` of a model whose layers stand on several devices: each layer's are worked out on its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from headlens.hooks.cells import Cell
from headlens.hooks.changes import Changes
from headlens.hooks.entering import Entry
from headlens.hooks.replay import Wrapping


@dataclass(frozen=True, eq=False)
class Scattered:
    """Changes by device, with the device of each layer."""

    devices: Sequence[torch.device]
    on: Mapping[torch.device, Changes]

    def moves(self, cell: Cell) -> bool:
        """See `Changes.moves`."""
        return any(self.on[self.devices[part[0]]].moves(Cell((part,))) for part in cell.parts)

    def entries(self, cells: Sequence[Cell]) -> dict[int, Entry]:
        """See `Changes.entries`; each lies on the device of the layer it enters at."""
        found: dict[int, Entry] = {}
        for device, changes in self.on.items():
            found |= changes.entries([cell for cell in cells if self.devices[cell.layer] == device])
        # what enters behind the last layer stays with it
        where = [*self.devices, self.devices[-1]]
        return {at: replace(found[at], value=found[at].value.to(where[at])) for at in sorted(found)}

    def later(self, cells: Sequence[Cell]) -> dict[int, Wrapping]:
        """See `Changes.later`."""
        every = {device: changes.later(cells) for device, changes in self.on.items()}
        return {at: every[device][at] for at, device in enumerate(self.devices) if at in every[device]}


def scattered(devices: Sequence[torch.device], make: Callable[[torch.device], Changes]) -> Changes | Scattered:
    """The changes that `make` works out on a device: plain where there is only one."""
    on = {device: make(device) for device in dict.fromkeys(devices)}
    return next(iter(on.values())) if len(on) == 1 else Scattered(devices, on)
