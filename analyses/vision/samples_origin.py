"""Where a result on samples with pictures came from, in plain values that fit a file."""

import hashlib
from typing import Any

from headlens.analyses.provenance import weights_origin
from headlens.analyses.vision.samples import Samples
from headlens.hooks.model import Model


def samples_origin(model: Model, samples: Samples) -> dict[str, Any]:
    """The part of a result's provenance that its model and samples decide."""
    digest = hashlib.sha256()
    for inputs in samples.inputs:
        for name in sorted(inputs):
            value = inputs[name].detach().cpu()
            plain = value.double() if value.dtype.is_floating_point else value.long()
            digest.update(f"{name} {[*value.shape]}".encode())
            digest.update(plain.contiguous().numpy().tobytes())
    about = {"samples": samples.name, "samples_hash": digest.hexdigest(), "n_samples": len(samples)}
    return {**weights_origin(model), **about, "samples_details": dict(samples.details)}
