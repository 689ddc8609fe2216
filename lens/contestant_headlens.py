"""headlens in a bench: `patch_sweep` over all heads, from its first check to its HeadMap."""

from collections import Counter
from collections.abc import Sequence

import torch

from headlens.analyses.patching import patch_sweep
from headlens.analyses.task import Task
from headlens.bench_job import Cell, Job, Lap, Sweep
from headlens.hooks.arithmetic import least_flops
from headlens.hooks.model import Model
from headlens.hooks.sites import parse_heads
from headlens.models import load
from headlens.stopwatch import matmul_rate, timed


def prepare(job: Job) -> Sweep:
    """A function that sweeps all heads, whichever cells it is given."""
    model, task = load(job.model, dtype=job.dtype, device=job.device), task_of(job)
    least = _least(model, job)

    def sweep(cells: Sequence[Cell]) -> Lap:
        rate = matmul_rate(model)
        took, headmap = timed(
            model.device, lambda: patch_sweep(model, task, axes=job.axes, metric="logit_diff", progress=False)
        )
        assert headmap.samples is not None
        effects = headmap.samples.mean(0)
        return Lap(took, 0.0, effects.tolist(), least_flops=least, matmul_rate=rate)

    return sweep


def task_of(job: Job) -> Task:
    """The job's prompt pairs as a task."""
    lengths = torch.full((len(job.clean),), job.length)
    clean, corrupted, answers, foils = (
        torch.tensor(given) for given in (job.clean, job.corrupted, job.answers, job.foils)
    )
    return Task("bench", clean, corrupted, lengths, answers, foils)


def _least(model: Model, job: Job) -> int:
    """What the sweep needs at the least: with a position axis, a patch at one moves what lies behind it."""
    heads, total = parse_heads("all", model.n_layers, model.n_heads), 0
    for start, prompts in Counter(job.first_differences).items():
        suffix = job.length - start
        if "pos" in job.axes:
            total += sum(least_flops(model, heads, prompts, left, patched=1) for left in range(1, suffix + 1))
        else:
            total += least_flops(model, heads, prompts, suffix)
    return total
