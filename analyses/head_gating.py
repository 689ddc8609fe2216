"""Can heads be switched off token by token, by the size of their queries? The training-free router of MoH (2410.11842).

MoH keeps, at each token, the heads with the largest router scores. When it continues from a trained model it starts
from scores that need no parameters, the L2 norm of each head's query. If the norm says which heads matter, switching
off the smallest costs less than switching off as many at random, and far less than the largest.
"""

import numpy as np
from jaxtyping import Int
from torch import Tensor

from headlens.analyses.edit_losses import edit_losses
from headlens.analyses.headmap import HeadMap
from headlens.hooks.model import Model
from headlens.hooks.norm_gate import NormGate


def gating_probe(
    model: Model,
    windows: Int[Tensor, "window pos"],
    off: float = 0.25,
    draws: int = 3,
    seed: int = 0,
    *,
    progress: bool = True,
) -> HeadMap:
    """What it costs to switch off the share `off` of each layer's heads, at every token, chosen in three ways.

    Returns:
        A HeadMap of dims (metric,) with the entries smallest, largest, random (the mean of so many `draws`) and
        "smallest - random": next-token loss above the model's own, nats per token, paired over windows. A last entry
        below 0 says that the norm of queries is a usable signal without training.

    Raises:
        ValueError: for draws < 1, and whatever NormGate and edit_losses refuse.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} was given; expected how many random choices to average, at least 1.")
    random = {f"random {draw}": [NormGate(off, "random", seed + draw)] for draw in range(draws)}
    edits = {"smallest": [NormGate(off)], "largest": [NormGate(off, "largest")], **random}
    costs = edit_losses(model, windows, edits, name="cost of switching heads off", progress=progress)
    assert costs.samples is not None  # edit_losses keeps them
    smallest, largest, drawn = costs.samples[:, 0], costs.samples[:, 1], costs.samples[:, 2:].mean(1)
    return HeadMap.from_samples(
        np.stack([smallest, largest, drawn, smallest - drawn], 1),
        dims=("metric",),
        coords={"metric": ["smallest", "largest", "random", "smallest - random"]},
        name=costs.name,
        units=costs.units,
        sign=costs.sign,
        provenance={**costs.provenance, "analysis": "gating_probe", "off": off, "draws": draws, "seed": seed},
    )
