"""What the peers of a bench share: the weights as transformers loads them, the prompts, and what is measured."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from headlens.bench_job import Cell, Job, Lap, Sweep
from headlens.device import parse_device, parse_dtype
from headlens.folder import load_folder
from headlens.models import find
from headlens.stopwatch import timed

Kept = TypeVar("Kept")


def load_plain(job: Job) -> PreTrainedModel:
    """The model, without what headlens sets up for itself when it loads one; its attention is transformers' default."""
    return load_folder(find(job.model), parse_dtype(job.dtype), parse_device(job.device))


def tokens(job: Job) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, "prompt pos"]]:
    """The clean and the corrupted prompts."""
    clean, corrupted = (torch.tensor(rows, device=job.device) for rows in (job.clean, job.corrupted))
    return clean, corrupted


def answer_minus_foil(job: Job) -> Callable[[Float[Tensor, "prompt pos vocabulary"]], Float[Tensor, ""]]:
    """The function from logits to what is measured at the last position, in logits, averaged over prompts."""
    rows, answers, foils = (torch.tensor(x, device=job.device) for x in (range(len(job.clean)), job.answers, job.foils))
    return lambda logits: (logits[rows, -1, answers] - logits[rows, -1, foils]).mean()


def one_forward_a_cell(
    job: Job, before: Callable[[], tuple[Kept, Tensor]], patched: Callable[[Kept, Cell], Tensor]
) -> Sweep:
    """A sweep that runs `before` once, for the clean z and the corrupted run's measure, and `patched` for each cell."""
    device = parse_device(job.device)

    def sweep(cells: Sequence[Cell]) -> Lap:
        with torch.no_grad():
            once, (clean_z, unpatched) = timed(device, before)
            took, measures = timed(device, lambda: torch.stack([patched(clean_z, cell) for cell in cells]))
        return Lap(once, took / len(cells), (measures - unpatched).tolist())

    return sweep
