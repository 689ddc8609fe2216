"""The `headlens` command: which commands there are, and how an error reaches the person who typed one.

The commands live in files of their own and import what is heavy only when they run, so that help is instant.
"""

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headlens import (
    __version__,
    cli_attribution,
    cli_bench,
    cli_bench_kernels,
    cli_calibrate,
    cli_diff,
    cli_models,
    cli_reading,
    cli_results,
    cli_reuse,
    cli_runs,
    cli_tasks,
    cli_vision,
)
from headlens.carry_out import INTERRUPTED


class OneSentence(TyperGroup):
    """A command group that turns what goes wrong into one sentence on stderr and a non-zero exit."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with its input, its files or the machine is told in a sentence."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        # The reader of our output has gone (`headlens models | head`): typer ends quietly by itself.
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"headlens: {_sentence(error)}", err=True)
            raise typer.Exit(1) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        advice = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = ". Free some space and run the same command again; what is finished is kept."
        return f"{error.strerror}: {error.filename}{advice}"
    return str(error) or type(error).__name__


# Without rich_markup_mode, typer would spend as long on importing rich as on all the rest.
app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"headlens {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def headlens(
    debug: Annotated[bool, typer.Option("--debug", envvar="HEADLENS_DEBUG", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A workbench for attention heads: record, patch and recalibrate every head of a transformer."""


app.command()(cli_runs.demo)
app.command()(cli_runs.sweep)
app.command()(cli_attribution.attribute)
app.command()(cli_attribution.verify)
app.command()(cli_reading.stats)
app.command()(cli_reading.sinks)
app.command()(cli_calibrate.calibrate)
app.command()(cli_reuse.reuse)
app.command()(cli_vision.look)
app.command()(cli_vision.divergence)
app.command()(cli_vision.redistribute)
app.command()(cli_results.show)
app.command()(cli_diff.diff)
app.command()(cli_results.export)
app.command()(cli_tasks.tasks)
app.command()(cli_bench.bench)
app.command(name="bench-stats")(cli_bench.bench_stats)
app.command(name="bench-kernels")(cli_bench_kernels.bench_kernels)
app.command()(cli_models.models)
app.command()(cli_models.fetch)
app.command()(cli_models.doctor)
