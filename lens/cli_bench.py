"""`headlens bench`: the patching sweep beside TransformerLens's, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from headlens.cli_runs import ModelName


def bench(
    model: ModelName = "smollm2-135m",
    n: Annotated[int, typer.Option("--n", min=1, help="How many IOI prompt pairs.")] = 8,
    template: Annotated[str, typer.Option("--template", help="Their template, of data/tasks/ioi.toml.")] = "when-went",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: torch's.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=0, help="Cells a peer is timed on; 0: all of them.")] = 27,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each sweeps, in turn.")] = 3,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the figures.")] = None,
) -> None:
    """Time the sweep of all heads beside TransformerLens's on the same weights, prompts and threads."""
    import torch

    from headlens.analyses.atomic import write_text
    from headlens.analyses.tasks import ioi
    from headlens.bench import as_csv, compare, described
    from headlens.models import load

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(model)
    task = ioi(loaded, n=n, templates=template)
    typer.echo(f"{loaded.name}: all {loaded.n_layers * loaded.n_heads} heads, {n} pairs, {rounds} rounds in turn ...")
    rows = compare(loaded, task, sample or None, rounds)
    typer.echo(described(rows))
    if out is not None:
        write_text(out, as_csv(rows, loaded, task))
        typer.echo(f"Wrote {out}")
