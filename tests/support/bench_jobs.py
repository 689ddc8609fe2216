"""A small job for the bench's tests: a random Llama in a folder, and four pairs of nine tokens."""

from pathlib import Path

from headlens.bench_job import Job
from tiny_models import inputs_for, tiny

LENGTH, FIRST = 9, 5


def tiny_job(folder: Path, axes: tuple[str, ...] = ("layer", "head")) -> Job:
    """headlens's job; the weights are saved where they are looked for. Its prompts first differ at FIRST."""
    tiny("llama").save_pretrained(folder)
    clean = inputs_for("llama", batch=4, length=LENGTH)["input_ids"]
    corrupted = clean.clone()
    corrupted[:, FIRST] = (clean[:, FIRST] + 31) % 80 + 4
    return Job(
        who="headlens",
        model=str(folder),
        dtype="float32",
        device="cpu",
        threads=1,
        axes=axes,
        clean=clean.tolist(),
        corrupted=corrupted.tolist(),
        answers=[5, 6, 7, 8],
        foils=[50, 51, 52, 53],
    )
