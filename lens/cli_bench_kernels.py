"""`headlens bench-kernels`: the Triton kernels' figures on this machine's GPU."""

from pathlib import Path
from typing import Annotated

import typer


def bench_kernels(
    case: Annotated[list[str] | None, typer.Option("--case", help="A case; repeat for several. Default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One length, one model, one round.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the figures.")] = None,
) -> None:
    """Time the Triton kernels beside torch's attention on a CUDA GPU, once their numbers are found right.

    Cases are matmul (always measured), grouped_attention, head_stats, error, shared_prefix_attention and head_delta.
    """
    from headlens.bench_kernels import as_csv, described, timing_gpu

    device = timing_gpu()

    from headlens.analyses.atomic import write_text
    from headlens.choice import one_of
    from headlens.kernels.bench import MATMUL, gpu_meters, rows
    from headlens.kernels.bench_cases import NAMES, all_cases

    wanted = {MATMUL, *(one_of("case", name, NAMES) for name in case or NAMES)}
    cases = [each for each in all_cases(device, quick) if each.name in wanted]
    done = []
    for row in rows(cases, gpu_meters(), rounds=1 if quick else 3):
        typer.echo(described(row))
        done.append(row)
        if out is not None:
            # after each row, so that a run that is cut off leaves what it measured
            write_text(out, as_csv(done, device))
    if out is not None:
        typer.echo(f"Wrote {out}")
    if failed := sum(row.problem is not None for row in done):
        raise ValueError(f"{failed} of {len(done)} cases were not measured; their lines above say why.")
