"""`headlens diff`: do two runs tell the same story, and which heads differ most?"""

from pathlib import Path
from typing import Annotated

import typer

_FORMATS = {".safetensors": "safetensors", ".json": "json"}

Map = Annotated[Path, typer.Argument(help="A run folder, or a .safetensors or .json file of a head map.")]


def diff(
    a: Map,
    b: Map,
    top: Annotated[int, typer.Option("--top", min=1, help="How many heads.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the map a - b to this .safetensors or .json file.")
    ] = None,
) -> None:
    """Compare the maps of two finished runs, a - b: rank correlation, heads on top of both, heads that differ most."""
    from headlens.analyses.comparison import compare
    from headlens.export import export
    from headlens.ranking import ranking
    from headlens.runs import read_result

    if out is not None and out.suffix not in _FORMATS:
        raise ValueError(f"The difference cannot be written to {out}; give a .safetensors or .json file.")
    comparison = compare(read_result(a), read_result(b), k=top)
    difference = comparison.difference
    # before anything is printed: whoever reads our output may have gone
    if out is not None:
        export(difference, _FORMATS[out.suffix], out)
    sure = ", with 95% intervals, each for one cell" if difference.samples is not None else ""
    typer.echo(comparison.described())
    typer.echo(f"{difference.name} ({difference.units}){sure}:\n{ranking(difference, top)}\n{difference.sign}")
    if out is not None:
        typer.echo(f"Wrote {out}")
