"""headlens beside its peers: the same weights, prompts and threads, each in a process of its own.

A speed counts only with the numbers beside it, so each row says how far its effects are from headlens's. A peer that
runs one whole forward per cell is timed on a random sample of cells, and the row says how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from headlens.bench_job import Cell, Job
from headlens.bench_race import Race, race
from headlens.contestants import PEERS, version_of


@dataclass(frozen=True)
class Row:
    """One contestant's sweep over all cells. None is what was not measured of it."""

    who: str
    version: str | None
    problem: str | None = None  # why a peer has no figures, in a sentence
    seconds: float | None = None  # median over rounds
    fastest: float | None = None
    slowest: float | None = None
    times_headlens: float | None = None  # median over rounds of its seconds over headlens's in the same round
    times_headlens_moving: float | None = None  # the same, had it left out the cells that cannot move anything
    max_difference: float | None = None  # largest distance of an effect from headlens's, in logits, on the cells timed
    top_found: int | None = None  # of headlens's 10 largest effects, how many are among its own 10 (of all cells)
    cells: int | None = None
    cells_moving: int | None = None  # those at or behind the first difference of the prompts; the others' effect is 0
    cells_timed: int | None = None
    peak_gib: float | None = None  # of its process (or GPU)
    matmul_share: float | None = None  # least arithmetic per second, over the matrix-multiply rate of its process
    matmul_gflops: float | None = None  # that rate


def compare(
    job: Job, peers: Sequence[str] = PEERS, sample: int | None = 27, rounds: int = 3, progress: bool = True
) -> list[Row]:
    """Let headlens and its peers do the job `rounds` times, in turn; headlens is the first row.

    `sample` is how many cells a peer is timed on, drawn at random from those that can move (None: all of those). A peer
    that is not installed, or fails, has a row that says so. The processes stay for all rounds, so that a model is
    loaded once: memory must hold one for each contestant. ValueError if headlens itself fails.
    """
    result = race(job, peers, sample, rounds, progress)
    first = replace(_row("headlens", result), cells_timed=result.effects.size)
    laps = result.laps["headlens"]
    rate, least = max(lap.matmul_rate or 0 for lap in laps), laps[0].least_flops
    if rate and least and first.seconds:
        first = replace(first, matmul_share=least / first.seconds / rate, matmul_gflops=rate / 1e9)
    return [first, *(_row(who, result) for who in peers)]


def _row(who: str, result: Race) -> Row:
    if who in result.problems:
        return Row(who, version_of(who), result.problems[who])
    laps, ours, cells = result.laps[who], result.laps["headlens"], result.effects.size
    seconds = [lap.seconds_for(cells) for lap in laps]

    def times(cells: int) -> float:
        return median(lap.seconds_for(cells) / own.seconds_for(cells) for lap, own in zip(laps, ours, strict=True))

    found = [np.array(lap.effects) for lap in laps]
    sampled = found[0].shape != result.effects.shape
    expected = _at(result.effects, result.cells) if sampled else result.effects
    return Row(
        who=who,
        version=version_of(who),
        seconds=median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        times_headlens=times(cells),
        times_headlens_moving=times(result.moving),
        max_difference=max(float(np.nanmax(np.abs(effects - expected))) for effects in found),
        top_found=None if sampled else min(len(_top(effects) & _top(result.effects)) for effects in found),
        cells=cells,
        cells_moving=result.moving,
        cells_timed=int(np.isfinite(found[0]).sum()),
        peak_gib=max(lap.peak_gib for lap in laps),
    )


def _top(effects: np.ndarray, k: int = 10) -> set[int]:
    """The k largest by magnitude, as places in the flat array; cells without a figure (NaN) are the smallest."""
    return {*np.argsort(-np.abs(np.nan_to_num(effects)), axis=None, kind="stable")[:k].tolist()}


def _at(effects: np.ndarray, cells: Sequence[Cell]) -> np.ndarray:
    return np.array([effects[cell[: effects.ndim]] for cell in cells])
