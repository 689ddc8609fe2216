"""`divergence` in a run folder: finished samples are kept, and a run that was stopped goes on behind them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from headlens.analyses.checkpoints import Checkpoint
from headlens.analyses.headmap import HeadMap
from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.samples_origin import samples_origin
from headlens.hooks.model import Model

# Samples of one chunk, whatever their batch.
TOGETHER = 64


def divergence_run(
    model: Model,
    samples: Samples,
    *,
    run: Path,
    resume: bool = True,
    without: str = "deleted",
    position: str | None = None,
    relative: bool = False,
    projected: bool = False,
    zero_outliers: bool = False,
    batch: int = 8,
    progress: bool = True,
) -> HeadMap:
    """What `divergence` gives for all samples, with chunks of 64 in the folder `run`.

    With "mean" everything is one chunk, since what replaces a picture there is made from all of them. A whole run and
    one that was stopped and resumed end in the same bytes. Arguments and errors are those of `divergence`, and of
    `Checkpoint.open`.
    """
    asked: dict[str, Any] = {"without": without, "position": position, "relative": relative, "projected": projected}
    asked |= {"zero_outliers": zero_outliers}
    size = max(1, len(samples)) if without == "mean" else TOGETHER
    identity = {"analysis": "divergence", **samples_origin(model, samples), **asked, "batch": batch}
    found = []
    with Checkpoint.open(run, identity, resume=resume) as kept:
        # for what every map of these settings says of itself
        first = divergence(model, samples.subset(range(min(1, len(samples)))), batch=batch, progress=False, **asked)
        for start in tqdm(range(0, len(samples), size), unit=" chunks", desc="divergence", disable=not progress):
            some = samples.subset(range(start, min(start + size, len(samples))))

            def chunk(some: Samples = some) -> Mapping[str, np.ndarray]:
                samples = divergence(model, some, batch=batch, progress=False, **asked).samples
                assert samples is not None
                return {"samples": samples}

            found.append(kept.kept(f"samples-{start:06d}", chunk)["samples"])
    return HeadMap.from_samples(
        np.concatenate(found),
        dims=first.dims,
        name=first.name,
        units=first.units,
        sign=first.sign,
        clusters=samples.clusters,
        provenance={**first.provenance, **samples_origin(model, samples)},
    )
