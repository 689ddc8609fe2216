"""`headlens sweep` and `headlens demo`: patch every head, and write what came out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.carry_out import carry_out
from headlens.cli_options import (
    MODEL,
    SHOWN,
    Axes,
    Device,
    Direction,
    Dtype,
    File,
    Fresh,
    OfModel,
    OfPrompts,
    OfSeed,
    OfTask,
    Out,
    Positions,
    Prompts,
    Site,
    folder_of,
    listed,
    work_of,
)

if TYPE_CHECKING:
    from headlens.work import Work


def sweep(
    file: File = None,
    out: Out = None,
    model: OfModel = None,
    device: Device = None,
    dtype: Dtype = None,
    task: OfTask = None,
    n: OfPrompts = None,
    seed: OfSeed = None,
    site: Site = None,
    axes: Axes = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="logit_diff, prob, prob_diff, rank, loss, kl; several with commas or one by one.",
            show_default="the task's own",
        ),
    ] = None,
    direction: Direction = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="What is put in: the other run's own, or made of the other runs: mean, mean_positional, resample "
            "(drawn by --seed), zero.",
            show_default="other",
        ),
    ] = None,
    positions: Positions = None,
    heads: Annotated[
        str | None,
        typer.Option(
            "--heads",
            help="Heads patched together, such as L23H3+L20H0; several sets with commas. Axes: heads or heads,pos.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Bound on what is kept in memory, such as 500MiB.", show_default="1GiB"),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Patch every head of a model on a task and write the map of what each one carries.

    All of it may stand in a file instead. It needs a model and a task; paths in it start from its own folder:

    \b
        model = "smollm2-135m"
        out = "runs/by-position"
        [task]
        name = "ioi"                # or file = "pairs.jsonl"
        n = 32
        corruption = "swap"         # any argument of headlens.tasks.ioi
        [sweep]
        axes = ["layer", "head", "pos"]
        metric = ["logit_diff", "kl"]
        positions = ["S2", "END"]   # any option from --site to --memory

    Each run folder has such a file, config.toml, that repeats the run: headlens sweep runs/a/config.toml --out runs/b
    """
    work = work_of(
        "sweep",
        file,
        model=model,
        device=device,
        dtype=dtype,
        reads={"task": task, "n": n, "seed": seed},
        site=site,
        axes=axes,
        metric=listed(metric),
        direction=direction,
        positions=positions,
        source=source,
        heads=heads,
        memory=memory,
    )
    _sweep(work, folder_of(out, work), fresh)


def demo(
    out: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("runs/ioi"),
    n: Prompts = 64,
    fresh: Fresh = False,
) -> None:
    """Find the heads of SmolLM2-135M that know to whom the drink is given (indirect object identification)."""
    typer.echo(
        "Which attention heads of SmolLM2-135M know who is meant?\n"
        '  clean:      "When Mary and John went to the store, John gave a drink to" -> " Mary"\n'
        "  corrupted:  the same with a third name in place of the second John: nothing says who comes next.\n"
        "Each head's output in the corrupted run is replaced by its clean one; how much of the answer comes back?"
    )
    work = work_of("sweep", None, model=MODEL, device=None, dtype=None, reads={"n": n})
    _sweep(work, out, fresh)
    typer.echo(f"Open {(out / 'report.html').resolve()} in a browser; `headlens show {out}` prints more heads.")


def _sweep(work: "Work", folder: Path, fresh: bool) -> None:
    from headlens.analyses.patching import run_plan
    from headlens.ranking import cells_of, counted, described
    from headlens.runs import write_results

    done = carry_out(work, folder, fresh, lambda it: run_plan(it.model, it.task, it.plan, run=folder, resume=not fresh))
    ready, headmap = done.ready, done.result
    # before anything is printed: whoever reads our output may have gone
    written = write_results(headmap, ready.files, folder)
    pairs = f"{counted(len(ready.task), 'pair')} of {ready.task.name}"
    typer.echo(f"{ready.model.name}: {cells_of(headmap)} on {pairs} {done.took}, by {headmap.provenance['method']}")
    typer.echo(described(headmap, SHOWN))
    typer.echo(f"Wrote {', '.join(written)} in {folder}")
