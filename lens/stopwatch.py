"""Measuring a run on this machine: seconds, memory, and the matrix-multiply rate to hold them against."""

import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from headlens.hooks.model import Model

Result = TypeVar("Result")


def timed(device: torch.device, do: Callable[[], Result]) -> tuple[float, Result]:
    """How many seconds `do` takes, up to the end of what it started on a GPU, and what it returns."""
    _finish(device)
    began = time.perf_counter()
    result = do()
    _finish(device)
    return time.perf_counter() - began, result


def peak_gib(device: torch.device) -> float:
    """The most memory that was in use so far: of the GPU, or of this whole process, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux counts what the parent had in use when it started this process as this one's own in getrusage.
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) / 2**20
    # kilobytes, but on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def matmul_rate(model: Model) -> float:
    """Floating-point operations a second of `x @ W.T` over the weight matrices of the model's own blocks.

    `x` has as many rows as the sweep engine's batches; one pass over all blocks, the fastest of five.
    """
    # imported here: a peer's process has no use for the engine
    from headlens.hooks.sweep import ROWS

    weights = [p.detach() for layer in model.layers for p in layer.block.parameters() if p.ndim == 2]
    inputs = {w.shape[1]: torch.randn(ROWS, w.shape[1], device=model.device, dtype=model.dtype) for w in weights}

    def multiply() -> None:
        for w in weights:
            # each product is freed at once, as a model's are
            _ = inputs[w.shape[1]] @ w.T

    took = min(timed(model.device, multiply)[0] for _ in range(5))
    return sum(2 * ROWS * w.numel() for w in weights) / took


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
