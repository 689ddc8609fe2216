"""`headlens tasks`: which tasks there are, and what their prompts look like to a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli_options import ModelName, Prompts, Seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from headlens.analyses.tasks import Task


def tasks(
    task: Annotated[str | None, typer.Argument(help="A task by name; without one, all are listed.")] = None,
    model: ModelName = "smollm2-135m",
    n: Prompts = 3,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Write the pairs to this .jsonl file instead.")] = None,
) -> None:
    """List the tasks, or show prompt pairs of one as a model's tokenizer sees them."""
    from headlens.analyses.tasks import REGISTRY, named

    if task is None:
        if out is not None:
            raise ValueError("--out was given without a task; name the one to write.")
        width = max(map(len, REGISTRY))
        for name, listed in REGISTRY.items():
            summary = (listed.__doc__ or "-").splitlines()[0]
            typer.echo(f"{name:<{width}}  {summary}")
        return
    # before the model is loaded: a slip of the pen is told at once
    make = named(task)

    from headlens.analyses.tokens import tokenizer_of
    from headlens.models import load

    loaded = load(model)
    made = make(loaded, n, seed)
    if out is not None:
        made.to_jsonl(out)
        typer.echo(f"Wrote {len(made)} pairs of {made.name} to {out}")
        return
    typer.echo(f"{made.name}: {len(made)} pairs of {int(made.lengths.max())} tokens or fewer, metric {made.metric}")
    for prompt in range(len(made)):
        typer.echo("\n".join(_described(made, prompt, tokenizer_of(loaded))))


def _described(task: "Task", prompt: int, tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    """The lines that show one pair. Positions say the clean token, and the corrupted one where it is another."""

    def spelt(*tokens: int) -> str:
        return " ".join(repr(tokenizer.decode([token])) for token in tokens)

    length = int(task.lengths[prompt])
    clean, corrupted = (row[prompt, :length].tolist() for row in (task.clean_tokens, task.corrupted_tokens))
    texts = [text or tokenizer.decode(row) for text, row in zip(task.texts[prompt], (clean, corrupted), strict=True)]
    yield f"\n{task.templates[prompt]}"
    yield f"  clean      {texts[0]}"
    yield f"  corrupted  {texts[1]}"
    yield f"  answer     {spelt(int(task.answers[prompt]))}"
    yield f"  foil       {spelt(int(task.foils[prompt]))}"
    if task.has_sets:
        yield f"  right      {spelt(*task.answer_sets[prompt])}"
        yield f"  wrong      {spelt(*task.foil_sets[prompt])}"
    for name, positions in task.positions.items():
        at = int(positions[prompt])
        changed = f" -> {spelt(corrupted[at])}" if corrupted[at] != clean[at] else ""
        yield f"  {name:<9}  {at} {spelt(clean[at])}{changed}"
