"""headlens beside its peers: the same weights, prompts and threads, in turn, in one process.

A speed counts only with the numbers beside it, so each row says how far its effects are from headlens's. A peer that
runs one whole forward per cell is timed on a random sample of cells, and the row says how many.
"""

import csv
import io
import platform
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import numpy as np
import torch

from headlens import contestants
from headlens.analyses.prompt_groups import group_prompts
from headlens.analyses.tasks import Task
from headlens.contestants import Lap
from headlens.hooks.arithmetic import least_flops
from headlens.hooks.model import Model
from headlens.hooks.sites import Head, parse_heads
from headlens.stopwatch import matmul_rate, peak_gib

_PACKAGES = ("headlens", "torch", "transformers", "transformer-lens")


@dataclass(frozen=True)
class Row:
    """One contestant's sweep over all heads. None is what was not measured of it."""

    who: str
    seconds: float  # median over rounds
    fastest: float
    slowest: float
    times_headlens: float  # median over rounds of its seconds over headlens's in the same round
    max_difference: float  # largest distance of an effect from headlens's, in logits, over the cells timed
    cells: int
    cells_timed: int
    matmul_share: float | None = None  # least arithmetic per second, over the matrix-multiply rate of the same run
    matmul_gflops: float | None = None  # that rate
    peak_gib: float | None = None  # of the process (or GPU) after headlens's first sweep, before any peer ran


def compare(model: Model, task: Task, sample: int | None = 27, rounds: int = 3) -> list[Row]:
    """Let each contestant sweep all heads `rounds` times, in turn; headlens is the first row.

    `sample` is how many cells a peer is timed on, drawn at random (None: all). A peer that is not installed has no row.
    """
    every = parse_heads("all", model.n_layers, model.n_heads)
    cells = every if sample is None else random.Random(0).sample(every, min(sample, len(every)))
    racing = {"headlens": contestants.headlens(model, task, cells)}
    expected, peak = racing["headlens"]().effects, peak_gib(model.device)
    if _version("transformer-lens"):
        racing["transformer-lens"] = contestants.transformer_lens(model, task, cells)
    laps: dict[str, list[Lap]] = {who: [] for who in racing}
    rates = []
    for _ in range(rounds):
        rates.append(matmul_rate(model))
        for who, run in racing.items():
            laps[who].append(run())
    timed = {who: len(every) if who == "headlens" else len(cells) for who in racing}
    first, *others = (_row(who, laps[who], laps["headlens"], expected, len(every), timed[who]) for who in racing)
    share = _least(model, task, every) / first.seconds / max(rates)
    return [replace(first, matmul_share=share, matmul_gflops=max(rates) / 1e9, peak_gib=peak), *others]


def _row(who: str, laps: Sequence[Lap], ours: Sequence[Lap], expected: np.ndarray, cells: int, timed: int) -> Row:
    seconds, our_seconds = ([lap.seconds_for(cells) for lap in run] for run in (laps, ours))
    return Row(
        who=who,
        seconds=median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        times_headlens=median(theirs / own for theirs, own in zip(seconds, our_seconds, strict=True)),
        max_difference=max(float(np.abs(lap.effects - expected).max()) for lap in laps),
        cells=cells,
        cells_timed=timed,
    )


def _least(model: Model, task: Task, cells: Sequence[Head]) -> int:
    groups = group_prompts(task, len(task))
    return sum(least_flops(model, cells, len(group.indices), group.length - group.start) for group in groups)


def described(rows: Sequence[Row]) -> str:
    """The rows as lines of text for a person."""
    lines = []
    for row in rows:
        sampled = "" if row.cells_timed == row.cells else f", worked out from {row.cells_timed} of {row.cells} cells"
        lines.append(f"{row.who}: {row.seconds:.1f} s ({row.fastest:.1f} to {row.slowest:.1f}{sampled})")
        if row.matmul_share is None:
            lines.append(f"  {row.times_headlens:.1f} x headlens, effects within {row.max_difference:.1e} logits of it")
        else:
            lines.append(
                f"  {row.matmul_share:.0%} of the matrix-multiply rate ({row.matmul_gflops:.0f} GFLOP/s) on the least "
                f"arithmetic there is, {row.peak_gib:.2f} GiB at most"
            )
    return "\n".join(lines)


def as_csv(rows: Sequence[Row], model: Model, task: Task) -> str:
    """The rows, with what they were measured on, as CSV."""
    lengths, groups = task.lengths.tolist(), group_prompts(task, len(task))
    about = {
        "model": model.name,
        "pairs": len(task),
        "tokens": f"{min(lengths)}-{max(lengths)}",
        "first_difference": f"{min(group.start for group in groups)}-{max(group.start for group in groups)}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": _device(model.device),
        "threads": torch.get_num_threads(),
        **{name: _version(name) for name in _PACKAGES},
    }
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*(field.name for field in fields(Row)), *about], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        short = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
        writer.writerow({**short, **about})
    return buffer.getvalue()


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as about:
            return next(line.split(":", 1)[1].strip() for line in about if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
