"""The kernels' bench for a person: whether it can run here, and its rows as lines and as CSV."""

from collections.abc import Sequence
from importlib.metadata import version

import torch

from headlens.bench_csv import rows_as_csv
from headlens.bench_report import device_name
from headlens.device import default_device
from headlens.kernels.bench import Row
from headlens.kernels.dispatch import forced, on_device


def timing_gpu() -> torch.device:
    """The GPU that kernels are timed on; ValueError where there is none, or none that can run them."""
    device = default_device()
    if device.type != "cuda":
        raise ValueError(
            "Kernels are timed on a CUDA GPU, and torch sees none here. Triton's interpreter (TRITON_INTERPRET=1) runs "
            "them on a CPU, to check their numbers; it times nothing."
        )
    with forced("auto"):
        found = on_device(device)
    if not found.kernel:
        raise ValueError(f"Kernels cannot be timed here: {found.why}.")
    from triton import knobs

    if knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set, and Triton's interpreter times nothing; unset it.")
    return device


def described(row: Row) -> str:
    """A row as a line."""
    what = f"{row.case}: {row.of}; {row.dtype}"
    if row.problem is not None:
        return f"{what}: not measured: {row.problem}"
    line = f"{what}: {row.ours:.3g} {row.unit}"
    if row.unit == "ms":
        line += f" ({row.ours_20:.3g} to {row.ours_80:.3g})"
    if row.ratio is not None:
        line += f", {row.ratio:.2f} x {row.peers:.3g} of {row.peer}"
    if row.met is not None:
        line += f" (at most {row.target:.2f} wanted: {'met' if row.met else 'not met'})"
    if row.tflops is not None:
        line += f", {row.tflops:.3g} TFLOP/s"
    if row.matmul_share is not None:
        line += f", {row.matmul_share:.0%} of the matrix-multiply rate"
    return line


def as_csv(rows: Sequence[Row], device: torch.device) -> str:
    """The rows as CSV, each with what it was measured on; empty where there is no figure."""
    about = {
        "device": device_name(device),
        **{name: version(name) for name in ("torch", "triton")},
        "cuda": torch.version.cuda,
    }
    return rows_as_csv(Row, rows, about)
