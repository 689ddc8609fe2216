"""`headlens attribute` and `headlens verify`: rank every head by gradients, then patch the first ones for real."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.carry_out import carry_out
from headlens.cli_options import (
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
    Site,
    folder_of,
    work_of,
)
from headlens.source import check_seed

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap
    from headlens.analyses.tasks import Task
    from headlens.hooks.model import Model
    from headlens.work import Ready


def attribute(
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
        str | None,
        typer.Option("--metric", help="logit_diff, prob, prob_diff, loss or kl.", show_default="the task's own"),
    ] = None,
    direction: Direction = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="How many gradients to average; more are slower and truer.", show_default="1"),
    ] = None,
    positions: Positions = None,
    fresh: Fresh = False,
) -> None:
    """Estimate from gradients what patching each head would do, in a fraction of a sweep's time.

    An estimate ranks heads and is wrong for some: `headlens verify` patches the first ones. All options may stand in a
    file as for `headlens sweep`, with a table [attribute] in place of [sweep].
    """
    from headlens.analyses.attribution import attribute as attributed
    from headlens.analyses.checkpoints import Checkpoint
    from headlens.analyses.provenance import origin
    from headlens.ranking import cells_of, counted, described
    from headlens.runs import write_results

    work = work_of(
        "attribute",
        file,
        model=model,
        device=device,
        dtype=dtype,
        reads={"task": task, "n": n, "seed": seed},
        site=site,
        axes=axes,
        metric=metric,
        direction=direction,
        positions=positions,
        steps=steps,
    )
    folder, settings = folder_of(out, work), work.table.model_dump(include={"steps"})

    def compute(ready: "Ready") -> "HeadMap":
        plan = ready.plan
        identity = {"analysis": "attribute", **origin(ready.model, ready.task), **plan.described(), **settings}
        with Checkpoint.open(folder, identity, resume=not fresh):
            return attributed(
                ready.model,
                ready.task,
                plan.site,
                plan.axes,
                plan.metrics,
                plan.direction,
                positions=plan.positions,
                **settings,
            )

    done = carry_out(work, folder, fresh, compute)
    ready, headmap = done.ready, done.result
    written = write_results(headmap, ready.files, folder)
    pairs = f"{counted(len(ready.task), 'pair')} of {ready.task.name}"
    typer.echo(f"{ready.model.name}: {cells_of(headmap)} on {pairs} {done.took}, by {headmap.provenance['method']}")
    typer.echo(described(headmap, SHOWN))
    typer.echo(f"Wrote {', '.join(written)} in {folder}; `headlens verify {folder}` patches the first heads.")


def verify(
    run: Annotated[Path, typer.Argument(help="The folder of a run of `headlens attribute`.")],
    k: Annotated[int, typer.Option("--k", help="How many of the first cells to patch.")] = 30,
    sample: Annotated[int, typer.Option("--sample", help="How many cells to patch that are drawn from all.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Which cells are drawn.")] = 0,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of them to print.")] = 20,
) -> None:
    """Patch the first heads of an attribution for real, and some drawn at random: how far is it to be trusted?

    The exact map, missing where nothing was patched, is written beside it as verified.safetensors and verified.json.
    """
    from headlens.analyses.verification import verify as verified
    from headlens.export import export
    from headlens.kinds import KINDS
    from headlens.runs import VERIFIED, read_result
    from headlens.sweepfile import read_work
    from headlens.work import CONFIG_FILE, prepare

    config = run / CONFIG_FILE
    if not config.is_file():
        raise ValueError(f"{run} holds no {CONFIG_FILE} that says what it is of; give a run of `headlens attribute`.")
    check_seed(seed)
    work = read_work(config, "attribute", *KINDS)
    if work.kind != "attribute":
        exact = ", whose numbers are exact already" if work.kind == "sweep" else ""
        raise ValueError(
            f"{run} is a run of `headlens {work.kind}`{exact}, and verify takes runs of `headlens attribute`."
        )
    ranked = read_result(run)
    ready = prepare(work)
    _refuse_other_origin(run, ranked, ready.model, ready.task)
    found = verified(ready.model, ready.task, ranked, k=k, sample=sample, seed=seed)
    for name, form in VERIFIED:
        export(found.exact, form, run / name)
    table = found.to_frame().drop(columns=[*found.exact.dims]).head(top)
    typer.echo(found.described())
    typer.echo(table.to_string(index=False, float_format="{:+.3f}".format))
    typer.echo(f"Wrote {', '.join(name for name, _ in VERIFIED)} in {run}")


def _refuse_other_origin(run: Path, ranked: "HeadMap", model: "Model", task: "Task") -> None:
    for what, key, now in (("weights", "weights_hash", model.weights_hash), ("prompts", "task_hash", task.hash)):
        if ranked.provenance.get(key) != now:
            raise ValueError(f"The map in {run} was made with other {what} than its {what} are now; attribute anew.")
