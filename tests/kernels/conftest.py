"""New memory that holds what no kernel's result may show."""

import pytest
import torch


@pytest.fixture
def poisoned(monkeypatch):
    """New memory holds what no result may show."""
    real = torch.empty

    def empty(*shape, dtype=None, **more):
        new = real(*shape, dtype=dtype, **more)
        if new.dtype == torch.bool:
            return new.fill_(True)
        return new.fill_(torch.nan if new.is_floating_point() else -7)

    monkeypatch.setattr(torch, "empty", empty)
