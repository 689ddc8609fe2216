"""`headlens sweep`, `demo`, `show`, `export`: patch every head, look at what came out, hand it on."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap
    from headlens.analyses.tasks import Task
    from headlens.hooks.model import Model

INTERRUPTED = 130
SHOWN = 12

ModelName = Annotated[str, typer.Option("--model", help="A name of `headlens models`, a Hugging Face id or a folder.")]
Prompts = Annotated[int, typer.Option("--n", help="How many prompt pairs.")]
Seed = Annotated[int, typer.Option("--seed", help="Which prompt pairs.")]
Memory = Annotated[str, typer.Option("--memory", help="Bound on what is kept in memory, such as 500MiB.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start the run folder afresh instead of going on from there.")]
Run = Annotated[Path, typer.Argument(help="A run folder, or a .safetensors or .json file of a head map.")]


def sweep(
    out: Annotated[Path, typer.Option("--out", help="The run folder; an unfinished run in it goes on.")],
    model: ModelName = "smollm2-135m",
    task: Annotated[str, typer.Option("--task", help="A task by name (ioi), or a .jsonl file of pairs.")] = "ioi",
    n: Prompts = 64,
    seed: Seed = 0,
    site: Annotated[str, typer.Option("--site", help="What is patched: z, a head's output.")] = "z",
    axes: Annotated[str, typer.Option("--axes", help="layer,head or layer,head,pos.")] = "layer,head",
    metric: Annotated[str, typer.Option("--metric", help="What is measured.")] = "logit_diff",
    direction: Annotated[str, typer.Option("--direction", help="denoising or noising.")] = "denoising",
    memory: Memory = "1GiB",
    fresh: Fresh = False,
) -> None:
    """Patch every head of a model on a task and write the map of what each one carries."""
    from headlens.analyses.patching import patch_sweep
    from headlens.analyses.sweep_plan import Plan
    from headlens.models import load
    from headlens.runs import finished_chunks, write_results

    # before the model is loaded: a slip of the pen is told at once
    plan = Plan(site, tuple(axes.split(",")), metric, direction, memory)
    make = _task_maker(task, n, seed)
    loaded = load(model)
    prompts = make(loaded)
    finished = 0 if fresh else finished_chunks(out)
    started = time.perf_counter()
    try:
        headmap = patch_sweep(loaded, prompts, **asdict(plan), run=out, resume=not fresh)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. What is finished is kept in {out}; run the same command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    seconds = time.perf_counter() - started
    # before anything is printed: whoever reads our output may have gone
    written = write_results(headmap, out)
    work = f"{loaded.n_layers * loaded.n_heads} heads on {len(prompts)} pairs of {prompts.name}"
    resumed = f" ({finished} finished chunks were there already)" if finished else ""
    typer.echo(f"{loaded.name}: {work} in {seconds:.1f} s{resumed}, by {headmap.provenance['method']}")
    typer.echo(_described(headmap, SHOWN))
    typer.echo(f"Wrote {', '.join(written)} in {out}")


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
    sweep(out=out, n=n, fresh=fresh)
    typer.echo(f"Open {(out / 'report.html').resolve()} in a browser; `headlens show {out}` prints more heads.")


def show(
    run: Run,
    top: Annotated[int, typer.Option("--top", min=1, help="How many heads.")] = 20,
) -> None:
    """Print the strongest heads of a finished run."""
    from headlens.runs import read_result

    typer.echo(_described(read_result(run), top))


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


def _task_maker(task: str, n: int, seed: int) -> "Callable[[Model], Task]":
    """Check the task's name or file now, make it when the model is there."""
    from headlens.analyses.tasks import Task, named

    if task.endswith(".jsonl"):
        if not Path(task).is_file():
            raise ValueError(f"There is no task file {task!r}; expected one JSON object a line.")
        return lambda model: Task.from_jsonl(model, task)
    make = named(task)
    return lambda model: make(model, n, seed)


def _described(headmap: "HeadMap", k: int) -> str:
    from headlens.ranking import ranking

    return f"{headmap.name} ({headmap.units}), with 95% intervals:\n{ranking(headmap, k)}\n{headmap.sign}"
