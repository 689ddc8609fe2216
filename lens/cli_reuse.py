"""`headlens reuse`: do two tasks or more use the same heads, stage by stage?"""

from pathlib import Path
from typing import Annotated

import typer

from headlens.carry_out import INTERRUPTED
from headlens.cli_options import MODEL, Device, Dtype, Fresh


def reuse(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            help="Two tasks or more: names of `headlens tasks` or .jsonl files of pairs.",
            show_default="ioi colored_objects",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder; an unfinished run in it goes on.")] = None,
    model: Annotated[
        str, typer.Option("--model", help="A name of `headlens models`, a Hugging Face id or a folder.")
    ] = MODEL,
    preset: Annotated[
        str | None, typer.Option("--preset", help="A published protocol with its tasks: gpt2-medium-paper.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    n: Annotated[int | None, typer.Option("--n", help="How many prompt pairs of each.", show_default="64")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which prompt pairs.", show_default="0")] = None,
    top: Annotated[
        float | None,
        typer.Option("--top", help="The share of all heads that is on top of a stage.", show_default="0.02"),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Path patch several tasks stage by stage, back from the logits, and count the heads that they share.

    Every count stands beside what chance gives with as many heads of each layer. The run folder holds the map of each
    task and stage, overlap.csv (by stage and share of heads), ranks.csv (rank-biased overlap) and report.html.

    \b
        headlens reuse ioi colored_objects --out runs/reuse
        headlens reuse --model PATH --preset gpt2-medium-paper --out runs/paper
    """
    from headlens.reuse_run import asked, run

    work = asked(model, tasks or [], preset, n, seed, top, device, dtype)
    if out is None:
        raise ValueError("Where the run goes was not said; give its folder, such as --out runs/reuse.")
    try:
        typer.echo(run(work, out, fresh))
    except KeyboardInterrupt:
        typer.echo(f"Stopped. What is finished is kept in {out}; run the same command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
