"""Options that several commands share, and the work that they name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headlens.work import Work

MODEL = "smollm2-135m"
TASK = "ioi"

ModelName = Annotated[str, typer.Option("--model", help="A name of `headlens models`, a Hugging Face id or a folder.")]
Prompts = Annotated[int, typer.Option("--n", help="How many prompt pairs.")]
Seed = Annotated[int, typer.Option("--seed", help="Which prompt pairs.")]

# What a run's file may say instead is None unless it is typed.
OfModel = Annotated[
    str | None,
    typer.Option("--model", help="A name of `headlens models`, a Hugging Face id or a folder.", show_default=MODEL),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:1; default: a GPU if there is one.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="bfloat16 or float16.", show_default="float32")]
OfTask = Annotated[
    str | None,
    typer.Option("--task", help="A name of `headlens tasks`, or a .jsonl file of pairs.", show_default=TASK),
]
OfPrompts = Annotated[int | None, typer.Option("--n", help="How many prompt pairs.", show_default="64")]
OfSeed = Annotated[int | None, typer.Option("--seed", help="Which prompt pairs.", show_default="0")]
Site = Annotated[
    str | None,
    typer.Option(
        "--site",
        help="What is patched: z (a head's output), result, rot_q, rot_k, v, attn_scores, pattern, attn_out, mlp_out, "
        "resid_pre, resid_mid or resid_post.",
        show_default="z",
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        "--axes",
        help="layer,head or layer,head,pos or layer,pos or layer or layer,head,query,key.",
        show_default="layer,head; layer,pos at sites without heads",
    ),
]
Direction = Annotated[
    str | None,
    typer.Option(
        "--direction",
        help="denoising (clean into corrupted) or noising (corrupted into clean).",
        show_default="denoising",
    ),
]
Positions = Annotated[
    str | None,
    typer.Option("--positions", help="The task's names, numbers, spans: S2,END or S1..S2.", show_default="all"),
]
File = Annotated[Path | None, typer.Argument(help="A TOML file with all of it, beside --out and --fresh.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder; an unfinished run in it goes on.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start the run folder afresh instead of going on from there.")]
Run = Annotated[Path, typer.Argument(help="A run folder, or a .safetensors or .json file of a head map.")]


def work_of(
    kind: str,
    file: Path | None,
    *,
    model: str | None,
    device: str | None,
    dtype: str | None,
    task: str | None,
    n: int | None,
    seed: int | None,
    **cells: Any,
) -> "Work":
    """The work that a file describes, or else these options; None is what was not typed.

    ValueError for a file and options together, and for whatever does not fit.
    """
    from headlens.cell_tables import TABLES
    from headlens.sweepfile import read_work
    from headlens.task_choice import choose_task
    from headlens.work import Work

    chosen = {key: value for key, value in cells.items() if value is not None}
    if file is not None:
        others = {"model": model, "device": device, "dtype": dtype, "task": task, "n": n, "seed": seed, **chosen}
        typed = [f"--{key}" for key, value in others.items() if value is not None]
        if typed:
            raise ValueError(f"{', '.join(typed)} was given beside {file}; beside a file go --out and --fresh only.")
        return read_work(file, kind)
    name = TASK if task is None else task
    of_file = name.endswith(".jsonl")
    if of_file and n is not None:
        raise ValueError(f"--n was given beside {name}; all pairs of a file are taken.")
    drawn = {key: value for key, value in (("n", n), ("seed", seed)) if value is not None}
    choice = choose_task({"file": name} if of_file else {"name": name, **drawn}, "--task", Path())
    if seed is not None and "seed" in TABLES[kind].model_fields:
        chosen["seed"] = seed
    return Work(model or MODEL, choice, TABLES[kind](**chosen), kind, device, dtype)


def listed(texts: Sequence[str] | None) -> str | None:
    """An option that was given once or more, as one text with commas."""
    return ",".join(texts) if texts else None


def folder_of(out: Path | None, work: "Work") -> Path:
    """Where the run goes; ValueError if nobody said."""
    folder = out or work.out
    if folder is None:
        raise ValueError("Where the run goes was not said; give its folder, such as --out runs/mine.")
    return folder
