"""What half precision does to a sweep: some of its cells again, with the same weights in float32."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headlens.hooks.float32_twin import HALF, float32_twin
from headlens.hooks.model import Model

# How many cells and prompts are computed again: enough to see rounding, at a small part of the sweep's cost.
CELLS = 8
PROMPTS = 16
SEED = 0

# Effects [prompt, cell, place, metric], in the metrics' units, and scale [prompt, metric].
Effects = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Sample:
    """The prompts, and which cells at which places [cell, place], that are computed again."""

    prompts: list[int]
    cells: np.ndarray

    def of(self, prompts: Sequence[int]) -> tuple[int, ...]:
        """Those of these prompts that are in the sample."""
        return tuple(prompt for prompt in prompts if prompt in self.prompts)


def is_half(model: Model) -> bool:
    """Whether the model computes in half precision."""
    return model.dtype in HALF


def drawn(samples: np.ndarray, prompts: list[int]) -> Sample:
    """Some of these prompts at random, and of the cells patched there half among the largest effects, half at random.

    Effects are those of the first metric.
    """
    draw = np.random.default_rng(SEED)
    some = sorted(draw.choice(prompts, min(PROMPTS, len(prompts)), replace=False).tolist())
    effects = samples[some, :, :, 0]
    known = np.isfinite(effects)
    mean = np.abs(np.where(known, effects, 0).sum(0)) / np.maximum(known.sum(0), 1)
    # where no prompt has the place there is nothing to compare
    present = np.flatnonzero(known.any(0))
    largest = present[np.argsort(-mean.reshape(-1)[present], kind="stable")[: CELLS // 2]]
    rest = np.setdiff1d(present, largest)
    others = draw.choice(rest, min(CELLS - len(largest), len(rest)), replace=False)
    cells = np.zeros(mean.size, bool)
    cells[np.concatenate([largest, others]).astype(int)] = True
    return Sample(some, cells.reshape(mean.shape))


def in_float32(model: Model, sample: Sample, again: Callable[[Model], Effects]) -> dict[str, np.ndarray]:
    """The sample's effects [prompt, cell, metric] and scale [prompt, metric] by a float32 copy, on which `again` runs.

    ValueError with the reason where there can be no copy, or its memory does not suffice.
    """
    try:
        samples, scale = again(float32_twin(model))
    except torch.OutOfMemoryError as error:
        raise ValueError("the GPU's memory does not hold a float32 copy and its runs") from error
    return {"samples": samples[sample.prompts][:, sample.cells], "scale": scale[sample.prompts]}


def compared(found: Effects, sample: Sample, exact: Mapping[str, np.ndarray], dtype: str) -> dict[str, Any]:
    """How far the sweep's effects are from float32's, as plain values for a map's provenance.

    A cell's difference is that of its mean over the sample's prompts, as a fraction of the whole sweep's
    clean-corrupted difference; of several metrics the one that differs most counts.
    """
    samples, scale = found
    own = samples[sample.prompts][:, sample.cells]
    size = np.abs(scale.mean(0, dtype=np.float64))
    differences = np.abs(np.nanmean(own - exact["samples"], 0, dtype=np.float64)) / size
    of_scale = np.abs((scale[sample.prompts] - exact["scale"]).mean(0, dtype=np.float64)) / size
    return {
        "dtype": dtype,
        "compared_with": "float32",
        "cells": int(sample.cells.sum()),
        "prompts": len(sample.prompts),
        "max_difference": float(differences.max()),
        "mean_difference": float(differences.max(1).mean()),
        "scale_difference": float(of_scale.max()),
        "units": "fraction of the clean-corrupted difference",
    }


def in_words(report: Mapping[str, Any]) -> str:
    """The report as a sentence."""
    if "not_compared" in report:
        return f"Computed in {report['dtype']}; not compared with float32: {report['not_compared'].rstrip('.')}."
    return (
        f"Computed in {report['dtype']}: {report['cells']} cells on {report['prompts']} prompt pairs differ from "
        f"float32 by at most {report['max_difference']:.2g} of the clean-corrupted difference, by "
        f"{report['mean_difference']:.2g} on average."
    )
