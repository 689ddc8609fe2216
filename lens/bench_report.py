"""The rows of a bench as lines for a person and as CSV, with what they were measured on."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from headlens.bench import Row
from headlens.bench_csv import rows_as_csv
from headlens.bench_job import Job
from headlens.device import parse_device


def described(rows: Sequence[Row]) -> str:
    """The rows as lines of text."""
    return "\n".join(line for row in rows for line in _lines(row))


def _lines(row: Row) -> list[str]:
    if row.problem is not None:
        return [f"{row.who}: {row.problem}"]
    sampled = "" if row.top_found is not None else f", worked out from {row.cells_timed} of {row.cells} cells"
    lines = [
        f"{row.who} {row.version}: {row.seconds:.1f} s ({row.fastest:.1f} to {row.slowest:.1f}{sampled}), "
        f"{row.peak_gib:.2f} GiB"
    ]
    if row.matmul_share is not None:
        lines.append(
            f"  {row.matmul_share:.0%} of the matrix-multiply rate ({row.matmul_gflops:.0f} GFLOP/s) on the least "
            "arithmetic there is"
        )
    if row.who != "headlens":
        times = f"{row.times_headlens:.1f} x headlens"
        if row.cells_moving != row.cells:
            times = (
                f"{row.times_headlens_moving:.1f} x headlens on the {row.cells_moving} cells at which the prompts can "
                f"differ, {row.times_headlens:.1f} x on all"
            )
        lines.append(f"  {times}; effects within {row.max_difference:.1e} logits of headlens's")
    if row.cells_timed != row.cells and row.top_found is not None:
        lines.append(f"  {row.cells_timed} cells patched, with {row.top_found} of the 10 largest effects among them")
    return lines


def as_csv(rows: Sequence[Row], job: Job, prompts: str) -> str:
    """The rows, each with what it was measured on, as CSV; empty where there is no figure."""
    about: dict[str, Any] = {
        "model": job.model,
        "prompts": prompts,
        "axes": "-".join(job.axes),
        "pairs": len(job.clean),
        "tokens": job.length,
        "first_difference": min(job.first_differences),
        "dtype": job.dtype,
        "device": device_name(parse_device(job.device)),
        "threads": job.threads,
        **{name: version(name) for name in ("torch", "transformers")},
    }
    return rows_as_csv(Row, rows, about)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as about:
            return next(line.split(":", 1)[1].strip() for line in about if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
