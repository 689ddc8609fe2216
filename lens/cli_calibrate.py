"""`headlens calibrate`: which heads answer better when their attention sinks are weakened, and what that is worth."""

import json
from typing import Annotated

import typer

from headlens.carry_out import carry_out
from headlens.cli_options import (
    SHOWN,
    Alpha,
    Device,
    Dtype,
    File,
    First,
    Fresh,
    MinRows,
    MinShare,
    Mode,
    OfModel,
    Out,
    Threshold,
    folder_of,
    work_of,
)


def calibrate(
    file: File = None,
    out: Out = None,
    model: OfModel = None,
    device: Device = None,
    dtype: Dtype = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="A task with choices, by its name in `headlens tasks`, or a .jsonl file of prompts with choices.",
            show_default="sentiment",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many prompts.", show_default="400")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Which prompts, halves and random sets.", show_default="0")
    ] = None,
    mode: Mode = None,
    alpha: Alpha = None,
    threshold: Threshold = None,
    min_rows: MinRows = None,
    min_share: MinShare = None,
    first: First = None,
    beta: Annotated[
        float | None, typer.Option("--beta", help="The share of their attention that sinks keep.", show_default="0.4")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Whose heads are tried: 2-29 or 2,5,8.", show_default="from the third on"),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            "--candidates", help="How many heads are tried, the best by their gradient, or all.", show_default="60"
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option("--level", help="The p at which a head is kept; 1 keeps any gain.", show_default="0.05"),
    ] = None,
    sets: Annotated[
        int | None,
        typer.Option("--sets", help="Random sets of heads to hold the chosen ones against.", show_default="20"),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Choose the heads whose weakened sinks make more answers right on half of a task; measure them on the other half.

    This is the Attention Calibration Technique (2406.15765) with a test. The map has what each head that was tried
    gains alone, calibration.json the choice and what it is worth, estimate.safetensors what gradients had said of all
    heads. All options may stand in a file as for `headlens sweep`, with a table [calibrate] in place of [sweep].
    """
    from headlens.analyses.atomic import write_text
    from headlens.analyses.calibration import calibrate as calibrated
    from headlens.ranking import cells_of, counted
    from headlens.runs import CALIBRATION_FILE, ESTIMATE_FILE, write_results

    work = work_of(
        "calibrate",
        file,
        model=model,
        device=device,
        dtype=dtype,
        reads={"task": task, "n": n, "seed": seed},
        mode=mode,
        alpha=alpha,
        threshold=threshold,
        min_rows=min_rows,
        min_share=min_share,
        first=first,
        beta=beta,
        layers=layers,
        candidates=candidates,
        level=level,
        sets=sets,
    )
    folder = folder_of(out, work)
    done = carry_out(
        work, folder, fresh, lambda it: calibrated(it.model, it.task, **it.plan, run=folder, resume=not fresh)
    )
    ready, found = done.ready, done.result
    found.estimate.save(folder / ESTIMATE_FILE)
    write_text(folder / CALIBRATION_FILE, json.dumps(found.plain(), indent=2, allow_nan=False) + "\n")
    written = [*write_results(found.measured, ready.files, folder), CALIBRATION_FILE, ESTIMATE_FILE]
    tried = found.to_frame()
    prompts = f"{counted(len(ready.task), 'prompt')} of {ready.task.name}"
    typer.echo(
        f"{ready.model.name}: {len(tried)} of {cells_of(found.measured)} on {prompts} {done.took}, "
        f"by {found.measured.provenance['method']}"
    )
    typer.echo(found.described())
    # the sign of a p says nothing
    shown = tried.head(SHOWN).assign(**{name: tried[name].map("{:.3g}".format) for name in ("p", "q")})
    typer.echo(shown.to_string(index=False, float_format="{:+.3f}".format))
    typer.echo(f"Wrote {', '.join(written)} in {folder}")
