"""What the processes of a bench tell each other, as lines of JSON: a job, and the laps that come of it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from headlens.analyses.task import Task

AXES = ("layer,head", "layer,head,pos")


class Cell(NamedTuple):
    """One patch: the z of a head at one position, or (None) at all of them."""

    layer: int
    head: int
    pos: int | None


@dataclass(frozen=True)
class Job:
    """A patching sweep for one contestant: clean z goes into the corrupted run.

    Prompts have one length and are read at their last position. `cells` is what a peer is timed on; headlens sweeps
    all heads along `axes`.
    """

    who: str
    model: str
    dtype: str
    device: str
    threads: int
    axes: tuple[str, ...]
    clean: list[list[int]]
    corrupted: list[list[int]]
    answers: list[int]
    foils: list[int]
    cells: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        lengths = {len(tokens) for tokens in (*self.clean, *self.corrupted)}
        if len(lengths) != 1:
            raise ValueError(
                f"A bench needs prompts of one length, as some peers do; these have {min(lengths)} to {max(lengths)}."
            )

    @property
    def length(self) -> int:
        return len(self.clean[0])

    @property
    def first_differences(self) -> list[int]:
        """For each pair, the first position at which the corrupted prompt differs from the clean one."""
        pairs = zip(self.clean, self.corrupted, strict=True)
        return [next(at for at in range(self.length) if clean[at] != corrupted[at]) for clean, corrupted in pairs]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Job":
        read = json.loads(line)
        return cls(**{**read, "axes": tuple(read["axes"]), "cells": [Cell(*cell) for cell in read["cells"]]})


def job_for(task: Task, model: str, dtype: str, device: str, threads: int, axes: Sequence[str]) -> Job:
    """headlens's own job on a task; a peer's is the same with another `who` and its cells."""
    return Job(
        who="headlens",
        model=model,
        dtype=dtype,
        device=device,
        threads=threads,
        axes=tuple(axes),
        clean=[row[:length].tolist() for row, length in zip(task.clean_tokens, task.lengths, strict=True)],
        corrupted=[row[:length].tolist() for row, length in zip(task.corrupted_tokens, task.lengths, strict=True)],
        answers=task.answers.tolist(),
        foils=task.foils.tolist(),
    )


@dataclass(frozen=True)
class Lap:
    """One timed sweep: what comes once, what each cell takes, and by how many logits each cell moves the mean
    answer-minus-foil difference (headlens: of all cells, nested by axis)."""

    seconds_before: float
    seconds_a_cell: float
    effects: list[Any]
    peak_gib: float = float("nan")  # the most memory of the process (or GPU) until now
    least_flops: int | None = None  # headlens only: what all cells need at the least
    matmul_rate: float | None = None  # headlens only: floating-point operations a second, measured before the lap

    def seconds_for(self, cells: int) -> float:
        """What a sweep over so many cells takes at this pace."""
        return self.seconds_before + cells * self.seconds_a_cell

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Lap":
        return cls(**json.loads(line))


Sweep = Callable[[Sequence[Cell]], Lap]
