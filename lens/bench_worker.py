"""The process of one contestant: a job comes in as a line of JSON, a lap goes out for it and for each line after it.

A process each keeps what one does to memory, threads and modules from the others. In between it waits for the next
line, which takes no processor time.
"""

import os
import sys
from dataclasses import replace
from typing import TextIO

import torch

from headlens.bench_job import Job, Lap
from headlens.contestants import prepare
from headlens.device import parse_device
from headlens.stopwatch import peak_gib

# Cells of the first lap, which is for warming up.
WARM_UP = 3


def main() -> None:
    """Serve the parent until it closes the line; an exception ends the process, and its last line says why."""
    answers = _answers()
    job = Job.from_json(sys.stdin.readline())
    torch.set_num_threads(job.threads)
    sweep = prepare(job)
    _answer(answers, job, sweep(job.cells[:WARM_UP]))
    for _ in sys.stdin:
        _answer(answers, job, sweep(job.cells))


def _answers() -> TextIO:
    """The parent's line, for nothing but laps: what else is printed in this process goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answer(answers: TextIO, job: Job, lap: Lap) -> None:
    answers.write(replace(lap, peak_gib=peak_gib(parse_device(job.device))).to_json() + "\n")
    answers.flush()
