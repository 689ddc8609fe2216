"""Shared fixtures, and the settings that every test needs before anything is imported.

The repository root must not be on sys.path, where its `kernels/` would shadow Hugging Face's `kernels`; no test may ask
a model hub; and where there is no GPU, Triton's kernels run in its interpreter, which is decided when it is imported.
"""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
os.environ["HF_HUB_OFFLINE"] = "1"
if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _threads():
    """Use the cores that this process may run on, or fewer where OMP_NUM_THREADS says so."""
    import torch

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(min(available, int(os.environ.get("OMP_NUM_THREADS", available))))


@pytest.fixture(scope="session")
def smollm2():
    """Load the real model once, on the CPU; it is fetched into the cache folder if it is not there yet."""
    import headlens

    return headlens.load("smollm2-135m", device="cpu")
