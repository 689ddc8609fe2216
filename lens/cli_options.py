"""Options that several commands share, and the work that they name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headlens.work import Work

MODEL = "smollm2-135m"
TASK = "ioi"
# How many cells a command prints of what it found.
SHOWN = 12

ModelName = Annotated[str, typer.Option("--model", help="A name of `headlens models`, a Hugging Face id or a folder.")]
Prompts = Annotated[int, typer.Option("--n", help="How many prompts, or pairs of them.")]
Seed = Annotated[int, typer.Option("--seed", help="Which of these.")]

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
ToRead = Annotated[
    str | None,
    typer.Option("--task", help="A name of `headlens tasks` or a .jsonl file, whose (clean) prompts are read instead."),
]
Text = Annotated[
    str | None, typer.Option("--text", help="Running text: english, or a .txt file.", show_default="english")
]
Length = Annotated[int | None, typer.Option("--length", help="Tokens of a window of text.", show_default="256")]
Windows = Annotated[
    int | None,
    typer.Option(
        "--n", help="How many windows of text, or prompts of a task.", show_default="16 windows, or the task's own"
    ),
]
OfWindows = Annotated[int | None, typer.Option("--seed", help="Which of these.", show_default="0")]
Mode = Annotated[
    str | None,
    typer.Option("--mode", help="causal_column, prefill_column or row.", show_default="causal_column"),
]
Alpha = Annotated[
    float | None,
    typer.Option("--alpha", help="A sink receives more than so many times the average.", show_default="5"),
]
Threshold = Annotated[
    float | None, typer.Option("--threshold", help="An absolute bound on attention in place of --alpha, such as 0.1.")
]
MinRows = Annotated[
    int | None, typer.Option("--min-rows", help="A sink is seen by at least so many rows.", show_default="16")
]
MinShare = Annotated[
    float | None, typer.Option("--min-share", help="A sink is seen by at least this share of rows.", show_default="0.2")
]
First = Annotated[bool | None, typer.Option("--first", help="The first token may be a sink too.", show_default="no")]
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
    reads: Mapping[str, Any],
    **settings: Any,
) -> "Work":
    """The work that a file describes, or else these options; None is what was not typed.

    `reads` has the options task, n and seed, and text and length where a text may be read. ValueError for a file and
    options together, and for whatever does not fit.
    """
    from headlens.kinds import KINDS
    from headlens.sweepfile import read_work
    from headlens.work import Work

    said, chosen = ({key: value for key, value in some.items() if value is not None} for some in (reads, settings))
    if file is not None:
        others = {"model": model, "device": device, "dtype": dtype, **said, **chosen}
        typed = [f"--{key.replace('_', '-')}" for key, value in others.items() if value is not None]
        if typed:
            raise ValueError(f"{', '.join(typed)} was given beside {file}; beside a file go --out and --fresh only.")
        return read_work(file, kind)
    table = KINDS[kind].table
    draws = "seed" in table.model_fields
    task, text = _tables(said, KINDS[kind].default_task, draws)
    if "seed" in said and draws:
        chosen["seed"] = said["seed"]
    named = {name: given for name, given in (("task", task), ("text", text)) if given is not None}
    read = KINDS[kind].choose(named, lambda name: f"--{name}", Path())
    return Work(model or MODEL, read, table(**chosen), kind, device, dtype)


def _tables(
    said: Mapping[str, Any], default_task: str | None, draws: bool
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The tables [task] and [text] that these options stand for, one of them None.

    A run that `draws` has a use of its own for the seed, also beside a file.
    """
    task, text = said.get("task"), said.get("text")
    if task is None and text is None:
        task = default_task
    drawn = {key: said[key] for key in ("n", "seed", "length") if key in said}
    if task is None:
        return None, drawn if text is None else {"file" if text.endswith(".txt") else "name": text, **drawn}
    for option in ("text", "length"):
        if option in said:
            raise ValueError(f"--{option} was given beside --task {task}; a run reads a task or a text.")
    if not task.endswith(".jsonl"):
        return {"name": task, **drawn}, None
    for option in ("n", *(() if draws else ("seed",))):
        if option in said:
            raise ValueError(f"--{option} was given beside {task}; all prompts of a file are taken, in their order.")
    return {"file": task}, None


def listed(texts: Sequence[str] | None) -> str | None:
    """An option that was given once or more, as one text with commas."""
    return ",".join(texts) if texts else None


def folder_of(out: Path | None, work: "Work") -> Path:
    """Where the run goes; ValueError if nobody said."""
    folder = out or work.out
    if folder is None:
        raise ValueError("Where the run goes was not said; give its folder, such as --out runs/mine.")
    return folder
