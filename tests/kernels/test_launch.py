"""Kernels are started along the one axis of a grid that has room for as many programs as memory has rows."""

import pytest
import torch

from headlens.kernels.recalibration import Change, Groups
from headlens.kernels.seen import Seen

pytest.importorskip("triton")
from headlens.kernels import grouped_attention, head_stats, received_attention, rows_divergence

# more than the second and third axis of a grid can have
MANY = 65_536 + 3
X = torch.zeros(MANY, 1, 1, 16)
LSE, COUNTED = torch.zeros(MANY, 1, 1), torch.ones(1, 1, dtype=torch.bool)
GROUPS = Groups(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), 1)
LAUNCHES = {
    "_grouped_attention": (grouped_attention, (X, X, X, Seen(), 1.0, GROUPS, Change())),
    "_row_stats": (head_stats, (X, X, Seen(), 1.0)),
    "_received": (received_attention, (X, X, Seen(), 1.0, LSE, COUNTED)),
    "_divergence": (rows_divergence, (X, X, LSE, X, X, LSE, Seen(), 1.0)),
}


class Noting:
    """Stands for a kernel, and notes the grids that it is launched on."""

    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return lambda *arguments, **settings: None


@pytest.mark.parametrize("name", LAUNCHES)
def test_prompts_and_heads_are_not_bound_by_the_grid(name, monkeypatch):
    module, given = LAUNCHES[name]
    kernel = Noting()
    monkeypatch.setattr(module, name, kernel)
    getattr(module, name.removeprefix("_"))(*given)
    assert kernel.grids == [(MANY,)]
