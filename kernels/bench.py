"""Measuring kernels beside their peers, behind a green check only.

A case's results are first held against their definition in float64, its peer's too where both compute the same. Where
one is further off than its number format explains, nothing is measured, and the row says why.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from triton.errors import TritonError
from triton.testing import do_bench

# How far results may be from float64, as a share of the largest number along their last axis.
CLOSE = {torch.bfloat16: 2e-2, torch.float32: 1e-3}
# The case whose rate the others of its dtype are held against.
MATMUL = "matmul"

Call = Callable[[], Any]
# What a call costs: a number for each time that it was tried.
Meter = Callable[[Call], list[float]]


class Result(NamedTuple):
    """A part of what was computed, and the same in float64."""

    what: str
    got: Tensor
    exact: Tensor


@dataclass(frozen=True, eq=False)
class Contest:
    """A case whose inputs are made: what is measured, and the results that must be right before it is."""

    ours: Call
    results: Callable[[], Iterable[Result]]
    peer: Call | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """What is compared. `prepare` makes the inputs when its turn comes, so that one case at a time takes memory."""

    name: str
    of: str  # sizes, in words
    dtype: torch.dtype
    prepare: Callable[[], Contest]
    unit: str = "ms"  # of what is measured, of which less is better; names the meter
    peer: str | None = None
    target: float | None = None  # at most so many times what the peer takes
    flops: int | None = None


@dataclass(frozen=True)
class Row:
    """What came of a case: medians, and the 20th and 80th percentiles. None is what was not measured."""

    case: str
    of: str
    dtype: str
    unit: str
    ours: float | None = None
    ours_20: float | None = None
    ours_80: float | None = None
    peer: str | None = None
    peers: float | None = None
    peers_20: float | None = None
    peers_80: float | None = None
    ratio: float | None = None  # ours over the peer's: below 1, ours takes less
    target: float | None = None
    met: bool | None = None
    tflops: float | None = None  # arithmetic of ours, in 10^12 operations a second
    matmul_share: float | None = None  # of the rate of a large matrix product in the same dtype, in the same run
    difference: float | None = None  # of the result that is furthest from float64 for its dtype
    allowed: float | None = None
    problem: str | None = None  # why nothing was measured, in a sentence


def rows(cases: Iterable[Case], meters: Mapping[str, Meter], rounds: int = 3) -> Iterator[Row]:
    """Check and measure each case, ours and the peer's in turn; `meters` has one for each unit."""
    rates: dict[torch.dtype, float] = {}
    for case in cases:
        row = _row(case, meters[case.unit], rounds)
        if case.name == MATMUL and row.tflops is not None:
            rates[case.dtype] = row.tflops
        if row.tflops is not None and case.dtype in rates:
            row = replace(row, matmul_share=row.tflops / rates[case.dtype])
        yield row


def gpu_meters(milliseconds: int = 100) -> dict[str, Meter]:
    """Meters of a CUDA GPU: `milliseconds` is about how long a call is repeated, with a flushed cache each time."""

    def timed(call: Call) -> list[float]:
        return cast(list[float], do_bench(call, warmup=25, rep=milliseconds, return_mode="all"))

    return {"ms": timed, "GiB": peak_gib, "error": told}


def peak_gib(call: Call) -> list[float]:
    """By how much the GPU's memory in use grows at most during the call."""
    # what only a first call takes (compiling, a library's workspace) does not count
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return [(torch.cuda.max_memory_allocated() - before) / 2**30]


def told(call: Call) -> list[float]:
    """The number that the call returns."""
    return [float(call())]


def difference(got: Tensor, exact: Tensor) -> float:
    """Largest distance, as a share of the largest number along the last axis.

    Infinite where it is not a number, and where the shapes differ.
    """
    if got.shape != exact.shape:
        return torch.inf
    off = (got.double() - exact).abs().amax(-1) / exact.abs().amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
    return float(off.nan_to_num(nan=torch.inf).max())


def _row(case: Case, meter: Meter, rounds: int) -> Row:
    dtype = str(case.dtype).removeprefix("torch.")
    row = Row(case.name, case.of, dtype, case.unit, peer=case.peer, target=case.target)
    try:
        contest = case.prepare()
        found = [(result.what, difference(*result[1:]), CLOSE[result.got.dtype]) for result in contest.results()]
        what, off, allowed = max(found, key=lambda each: each[1] / each[2])
        row = replace(row, difference=off, allowed=allowed)
        if off > allowed:
            return replace(row, problem=f"{what} differs from float64 by {off:.1e}, where {allowed:.0e} is allowed")
        ours, peers = [], []
        for _ in range(rounds):
            ours += meter(contest.ours)
            peers += meter(contest.peer) if contest.peer is not None else []
    except (RuntimeError, TritonError) as error:
        # a kernel that does not compile or runs out of memory leaves the other cases their figures
        return replace(row, problem=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    return _filled(row, case, ours, peers)


def _filled(row: Row, case: Case, ours: Sequence[float], peers: Sequence[float]) -> Row:
    low, median, high = _percentiles(ours)
    row = replace(row, ours=median, ours_20=low, ours_80=high)
    if case.flops is not None:
        row = replace(row, tflops=case.flops / median / 1e9)
    if not peers:
        return row
    low, peer_median, high = _percentiles(peers)
    row = replace(row, peers=peer_median, peers_20=low, peers_80=high, ratio=median / peer_median)
    return row if case.target is None else replace(row, met=median <= case.target * peer_median)


def _percentiles(measured: Sequence[float]) -> list[float]:
    """The 20th, the 50th and the 80th."""
    at = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return torch.tensor(measured, dtype=torch.float64).quantile(at).tolist()
