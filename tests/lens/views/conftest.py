"""Maps made by hand for the views."""

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap


@pytest.fixture
def effects():
    """A map of 3 layers and 5 heads from 7 prompts, with a cell that is missing; the largest is L2H3, negative."""
    samples = np.random.default_rng(1).normal(size=(7, 3, 5)).astype(np.float32) / 10
    samples[:, 1, 4] = np.nan
    samples[:, 2, 3] -= 0.44
    return HeadMap.from_samples(
        samples, dims=("layer", "head"), name="effect", units="nats", sign="Positive restores.", provenance={"seed": 3}
    )
