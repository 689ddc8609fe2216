"""Contestants do the same job in turn, round after round, each in its process."""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tqdm.auto import tqdm

from headlens.bench_job import Cell, Job, Lap
from headlens.bench_process import Failed, contestant
from headlens.contestants import version_of


@dataclass(frozen=True, eq=False)
class Race:
    """What came of it. A peer with a problem (a sentence) does not have a lap for every round."""

    effects: np.ndarray  # headlens's, of all cells
    moving: int  # at how many cells the clean and the corrupted run can differ at all
    cells: list[Cell]  # those that peers were timed on
    laps: dict[str, list[Lap]]
    problems: dict[str, str]


def race(job: Job, peers: Sequence[str], sample: int | None, rounds: int, progress: bool) -> Race:
    """headlens and then each peer warm up, and all take turns. ValueError if headlens fails; a peer may."""
    racing: dict[str, Callable[[], Lap]] = {}
    laps: dict[str, list[Lap]] = {who: [] for who in ("headlens", *peers)}
    problems = {who: "not installed" for who in peers if version_of(who) is None}
    with ExitStack() as running, tqdm(total=len(laps) * (1 + rounds), disable=not progress) as bar:

        def start(own: Job) -> Lap:
            first, racing[own.who] = running.enter_context(contestant(own))
            return first

        def attempt(who: str, lap: Callable[[], Lap]) -> list[Lap]:
            bar.set_description(who)
            try:
                return [lap()]
            except Failed as failure:
                if who == "headlens":
                    raise ValueError(f"headlens could not do the bench's sweep: {failure}") from failure
                problems[who] = str(failure)
                racing.pop(who, None)
                return []
            finally:
                bar.update()

        (first,) = attempt("headlens", partial(start, job))
        effects = np.array(first.effects)
        moving = _moving(effects.shape, job)
        cells = moving if sample is None else sorted(random.Random(0).sample(moving, min(sample, len(moving))))
        for who in peers:
            if who not in problems:
                attempt(who, partial(start, replace(job, who=who, cells=cells)))
        for _ in range(rounds):
            for who, again in [*racing.items()]:
                laps[who] += attempt(who, again)
    return Race(effects, len(moving), cells, laps, problems)


def _moving(shape: Sequence[int], job: Job) -> list[Cell]:
    positions = range(min(job.first_differences), job.length) if "pos" in job.axes else [None]
    return [Cell(layer, head, pos) for layer in range(shape[0]) for head in range(shape[1]) for pos in positions]
