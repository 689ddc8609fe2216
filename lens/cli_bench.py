"""`headlens bench` and `headlens bench-stats`: this machine's figures, beside other libraries and plain patterns."""

from pathlib import Path
from typing import Annotated

import typer

from headlens.cli_options import ModelName
from headlens.contestants import PEERS


def bench(
    model: ModelName = "smollm2-135m",
    prompts: Annotated[str, typer.Option("--prompts", help="Pairs: ioi, or long (48 tokens before each).")] = "ioi",
    axes: Annotated[str, typer.Option("--axes", help="layer,head or layer,head,pos.")] = "layer,head",
    n: Annotated[int, typer.Option("--n", min=1, help="How many prompt pairs.")] = 8,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: torch's.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=0, help="Cells a peer is timed on; 0: all of them.")] = 27,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each sweeps, in turn.")] = 3,
    peers: Annotated[str, typer.Option("--peers", help="Who sweeps beside headlens.")] = ",".join(PEERS),
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the figures.")] = None,
) -> None:
    """Time the sweep of all heads beside other libraries on the same weights, prompts and threads."""
    from headlens.analyses.atomic import write_text
    from headlens.bench import compare
    from headlens.bench_job import AXES, job_for
    from headlens.bench_prompts import named
    from headlens.bench_report import as_csv, described
    from headlens.choice import one_of
    from headlens.contestants import parse_peers

    # before anything is loaded: a slip of the pen is told at once
    chosen, make, along = parse_peers(peers), named(prompts), one_of("axes", axes, AXES)

    import torch

    from headlens.device import default_device, default_dtype
    from headlens.folder import load_tokenizer
    from headlens.models import find

    tokenizer = load_tokenizer(find(model))
    if tokenizer is None:
        raise ValueError(f"{model!r} has no tokenizer, and the bench makes its prompts with one.")
    job = job_for(
        make(tokenizer, n),
        model,
        dtype=str(default_dtype()).removeprefix("torch."),
        device=str(default_device()),
        threads=threads or torch.get_num_threads(),
        axes=along.split(","),
    )
    typer.echo(
        f"{model}: all heads along {along}, {n} pairs of {job.length} tokens that first differ at "
        f"{min(job.first_differences)}, {rounds} rounds in turn ..."
    )
    rows = compare(job, chosen, sample or None, rounds)
    typer.echo(described(rows))
    if out is not None:
        write_text(out, as_csv(rows, job, prompts))
        typer.echo(f"Wrote {out}")


def bench_stats(
    lengths: Annotated[str, typer.Option("--lengths", help="Tokens, several with commas.")] = "1024,4096",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: torch's.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each way runs, in turn.")] = 3,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the figures.")] = None,
) -> None:
    """Time the statistics of one layer's attention rows in blocks beside whole patterns."""
    if not all(part.strip().isdecimal() and int(part) > 1 for part in lengths.split(",")):
        raise ValueError(f"--lengths {lengths} was given; expected numbers of tokens from 2, such as 1024,4096.")

    import torch

    from headlens.analyses.atomic import write_text
    from headlens.bench_stats import as_csv, described, stats_bench

    rows = stats_bench([int(part) for part in lengths.split(",")], threads or torch.get_num_threads(), rounds)
    typer.echo(described(rows))
    if out is not None:
        write_text(out, as_csv(rows))
        typer.echo(f"Wrote {out}")
