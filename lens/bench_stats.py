"""The statistics of attention rows in blocks, beside the same on a whole pattern: seconds and memory of one layer.

The layer has SmolLM2-135M's shape and random queries, keys and values in float32. Each way's memory is what a process
of its own grows by at most, with no model in it.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from headlens.analyses.attention_statistics import DEFAULT
from headlens.analyses.row_readings import STATISTICS
from headlens.analyses.row_tally import Tally
from headlens.bench_csv import rows_as_csv
from headlens.bench_report import device_name
from headlens.hooks.clock import Clock
from headlens.hooks.intercept import Attention
from headlens.hooks.row_blocks import row_blocks
from headlens.kernels.row_statistics import entropy
from headlens.stopwatch import peak_gib, timed

HEADS, KV_HEADS, D_HEAD = 9, 3, 64
# Sums of thousands of float32 numbers in different order.
CLOSE = 1e-4
_CPU = torch.device("cpu")
_COMMAND = [sys.executable, "-P", "-c", "from headlens.bench_stats import measure_peak; measure_peak()"]

Way = Callable[[Attention], Tensor]


@dataclass(frozen=True)
class StatsRow:
    """Both ways at one length. Seconds are medians over rounds, `times` that of the ratio within each round."""

    tokens: int
    threads: int
    seconds_in_blocks: float
    seconds_whole: float
    times: float
    peak_gib_in_blocks: float
    peak_gib_whole: float
    max_difference: float  # between the ways, over heads and statistics


def stats_bench(lengths: Sequence[int] = (1024, 4096), threads: int = 1, rounds: int = 3) -> list[StatsRow]:
    """Entropy, first-token and previous-token mass of one layer's heads, both ways in turn, at each length.

    AssertionError if the ways disagree.
    """
    return [_at(tokens, threads, rounds) for tokens in lengths]


def described(rows: Sequence[StatsRow]) -> str:
    """A line for each length."""
    return "\n".join(
        f"{row.tokens:,} tokens, {row.threads} threads: {row.seconds_in_blocks:.3f} s and "
        f"{row.peak_gib_in_blocks * 1024:.0f} MiB in blocks, {row.seconds_whole:.3f} s and "
        f"{row.peak_gib_whole * 1024:.0f} MiB with whole patterns ({row.times:.1f} x the time, "
        f"{row.peak_gib_whole / row.peak_gib_in_blocks:.0f} x the memory); within {row.max_difference:.1e}"
        for row in rows
    )


def as_csv(rows: Sequence[StatsRow]) -> str:
    """The rows as CSV, each with what it was measured on."""
    about = {"device": device_name(_CPU), "torch": version("torch")}
    return rows_as_csv(StatsRow, rows, about)


def in_blocks(call: Attention) -> Tensor:
    """The default statistics as `head_stats` has them [statistic, head]."""
    tally = Tally({name: STATISTICS[name] for name in DEFAULT}, prompts=1, image_token=None)
    for block in row_blocks(call, 0, range(HEADS), Clock()):
        tally.look(block, block.pattern)
    return torch.stack([torch.from_numpy(tally.means(name, 1, None))[0, 0, :, 0] for name in DEFAULT])


def whole(call: Attention) -> Tensor:
    """The same from the pattern [head, query, key]; the first row sees one key and does not count."""
    pattern = call.pattern()
    return torch.stack(
        [
            entropy(pattern)[0, :, 1:].mean(-1),
            pattern[0, :, 1:, 0].mean(-1),
            pattern[0].diagonal(-1, 1, 2).mean(-1),
        ]
    )


WAYS: dict[str, Way] = {"in_blocks": in_blocks, "whole": whole}


def _at(tokens: int, threads: int, rounds: int) -> StatsRow:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        call = _layer(tokens)
        difference = float((in_blocks(call) - whole(call)).abs().max())
        assert difference < CLOSE, f"The two ways differ by {difference:.1e} at {tokens} tokens."
        laps = [{name: timed(_CPU, partial(way, call))[0] for name, way in WAYS.items()} for _ in range(rounds)]
    finally:
        torch.set_num_threads(before)
    return StatsRow(
        tokens=tokens,
        threads=threads,
        seconds_in_blocks=median(lap["in_blocks"] for lap in laps),
        seconds_whole=median(lap["whole"] for lap in laps),
        times=median(lap["whole"] / lap["in_blocks"] for lap in laps),
        peak_gib_in_blocks=_peak("in_blocks", tokens, threads),
        peak_gib_whole=_peak("whole", tokens, threads),
        max_difference=difference,
    )


def _layer(tokens: int) -> Attention:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, tokens, D_HEAD, generator=draw) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return Attention(query, key, value, None, D_HEAD**-0.5, True)


def _peak(way: str, tokens: int, threads: int) -> float:
    done = subprocess.run(
        _COMMAND,
        input=json.dumps({"way": way, "tokens": tokens, "threads": threads}),
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return float(done.stdout)


def measure_peak() -> None:
    """The child's part: run one way once and say by how many GiB the process grew at most."""
    job = json.loads(sys.stdin.read())
    torch.set_num_threads(job["threads"])
    # a short text first, so that what torch loads when it first multiplies does not count
    WAYS[job["way"]](_layer(64))
    call = _layer(job["tokens"])
    with contextlib.suppress(OSError):
        # Linux then counts the peak anew; elsewhere a peak before the run may hide the run's own
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_gib(_CPU)
    WAYS[job["way"]](call)
    sys.stdout.write(str(peak_gib(_CPU) - before))
