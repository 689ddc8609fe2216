"""What the tests of compat share: the engine used however few cells there are, and whole forwards noted."""

import pytest
import torch

from headlens.compat import cached_sweep
from headlens.compat.patch import Patch


@pytest.fixture(autouse=True)
def _always_replay(monkeypatch):
    """Use the engine however few cells there are, and no gradients, which TransformerLens's resid_mid depends on."""
    monkeypatch.setattr(cached_sweep, "FEW", 0)
    with torch.no_grad():
        yield


@pytest.fixture
def whole_forwards(monkeypatch):
    """Note each cell that was run as a whole forward; the engine's own check runs three."""
    seen, original = [], Patch.whole
    monkeypatch.setattr(Patch, "whole", lambda self, runner, row: seen.append(row) or original(self, runner, row))
    return seen
