"""`headlens show` and `headlens export`: look at a finished run, hand it on."""

from pathlib import Path
from typing import Annotated

import typer

from headlens.cli_options import Run


def show(
    run: Run,
    top: Annotated[int, typer.Option("--top", min=1, help="How many heads, or other cells.")] = 20,
) -> None:
    """Print the strongest heads of a finished run, by each of its metrics."""
    from headlens.ranking import described
    from headlens.runs import read_result

    typer.echo(described(read_result(run), top))


def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="parquet, csv, json, npz, html or safetensors.")],
    out: Annotated[Path | None, typer.Option("--out", help="The file; default: headmap.FORMAT beside the map.")] = None,
) -> None:
    """Write a finished run's map in another format."""
    from headlens import export as exporting
    from headlens.runs import read_result

    headmap = read_result(run)
    beside = run if run.is_dir() else run.parent
    typer.echo(f"Wrote {exporting.export(headmap, to, out or beside / f'headmap.{to}')}")
