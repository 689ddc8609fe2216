"""A run carried out in its folder, as every command does it: announced, timed, and stopped without a loss."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import typer

if TYPE_CHECKING:
    from headlens.work import Ready, Work

INTERRUPTED = 130
Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A finished run, and `took`, how long that was in words."""

    ready: "Ready"
    result: Result
    took: str


def carry_out(work: "Work", folder: Path, fresh: bool, compute: "Callable[[Ready], Result]") -> Done[Result]:
    """Load what the work needs and compute its result, which keeps finished chunks in the folder.

    ValueError for whatever does not fit. Ctrl-C says how to go on, and ends the command.
    """
    from headlens.runs import announce, finished_chunks
    from headlens.work import prepare

    ready = prepare(work)
    announce(ready.files, folder, fresh)
    finished = 0 if fresh else finished_chunks(folder)
    started = time.perf_counter()
    try:
        result = compute(ready)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. What is finished is kept in {folder}; run the same command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    resumed = f" ({finished} finished chunks were there already)" if finished else ""
    return Done(ready, result, f"in {time.perf_counter() - started:.1f} s{resumed}")
