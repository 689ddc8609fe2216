"""`headlens stats` and `headlens sinks`: what every head's attention is like on running text or a task's prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.carry_out import Done, carry_out
from headlens.cli_options import (
    SHOWN,
    Alpha,
    Device,
    Dtype,
    File,
    First,
    Fresh,
    Length,
    MinRows,
    MinShare,
    Mode,
    OfModel,
    OfWindows,
    Out,
    Text,
    Threshold,
    ToRead,
    Windows,
    folder_of,
    listed,
    work_of,
)

if TYPE_CHECKING:
    from headlens.analyses.headmap import HeadMap


def stats(
    file: File = None,
    out: Out = None,
    model: OfModel = None,
    device: Device = None,
    dtype: Dtype = None,
    task: ToRead = None,
    text: Text = None,
    n: Windows = None,
    length: Length = None,
    seed: OfWindows = None,
    what: Annotated[
        list[str] | None,
        typer.Option(
            "--what",
            help="entropy, first_token, previous_token, self, distance, duplicate, induction, divergence (of clean and "
            "corrupted prompts); several with commas or one by one. Alone, a number for each token: received, top_key, "
            "top_mass.",
            show_default="entropy,first_token,previous_token",
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            help="Attention to a group of keys: first, special, newline, space, punctuation, number, word, image, or "
            "several joined by +. Several groups with commas or one by one.",
        ),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Measure what every head's attention rows are like: how spread out, how much on the first token, on punctuation.

    All of it may stand in a file instead, as for `headlens sweep`:

    \b
        model = "smollm2-135m"
        [text]
        name = "english"            # or file = "mine.txt"; or a table [task]
        n = 16
        length = 256
        [stats]
        what = ["entropy", "induction"]
        group = ["punctuation", "newline+space"]
    """
    from headlens.analyses.stats_run import stats_run

    work = work_of(
        "stats",
        file,
        model=model,
        device=device,
        dtype=dtype,
        reads={"task": task, "text": text, "n": n, "length": length, "seed": seed},
        what=listed(what),
        group=listed(group),
    )
    folder = folder_of(out, work)
    done = carry_out(
        work, folder, fresh, lambda it: stats_run(it.model, it.task, *it.plan, run=folder, resume=not fresh)
    )
    _write_and_show(done, done.result, folder)


def sinks(
    file: File = None,
    out: Out = None,
    model: OfModel = None,
    device: Device = None,
    dtype: Dtype = None,
    task: ToRead = None,
    text: Text = None,
    n: Windows = None,
    length: Length = None,
    seed: OfWindows = None,
    mode: Mode = None,
    alpha: Alpha = None,
    threshold: Threshold = None,
    min_rows: MinRows = None,
    min_share: MinShare = None,
    first: First = None,
    fresh: Fresh = False,
) -> None:
    """Find the attention sinks of every head, by the rule of 2406.15765: how many there are, and on which tokens.

    The map holds each head's sinks per prompt; sinks.csv has a line for each sink. All options may stand in a file as
    for `headlens stats`, with a table [sinks] in place of [stats].
    """
    from headlens.analyses.atomic import write_text
    from headlens.analyses.sinks_run import sinks_run
    from headlens.runs import SINKS_FILE

    work = work_of(
        "sinks",
        file,
        model=model,
        device=device,
        dtype=dtype,
        reads={"task": task, "text": text, "n": n, "length": length, "seed": seed},
        mode=mode,
        alpha=alpha,
        threshold=threshold,
        min_rows=min_rows,
        min_share=min_share,
        first=first,
    )
    folder = folder_of(out, work)
    done = carry_out(
        work, folder, fresh, lambda it: sinks_run(it.model, it.task, it.plan, run=folder, resume=not fresh)
    )
    found = done.result
    write_text(folder / SINKS_FILE, found.to_frame().to_csv(index=False, lineterminator="\n"))
    _write_and_show(done, found.counts(), folder, f"{found.described()}\n", [SINKS_FILE])


def _write_and_show(
    done: Done, headmap: "HeadMap", folder: Path, in_words: str = "", others: list[str] | None = None
) -> None:
    """Write the run's map in every form, and say what was read, what was found, and where it is."""
    from headlens.ranking import cells_of, counted, described
    from headlens.runs import write_results

    ready = done.ready
    # before anything is printed: whoever reads our output may have gone
    written = [*write_results(headmap, ready.files, folder), *(others or [])]
    prompts = f"{counted(len(ready.task), 'prompt')} of {ready.task.name}"
    typer.echo(f"{ready.model.name}: {cells_of(headmap)} on {prompts} {done.took}")
    typer.echo(f"{in_words}{described(headmap, SHOWN)}")
    typer.echo(f"Wrote {', '.join(written)} in {folder}")
