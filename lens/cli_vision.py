"""`headlens look`, `headlens divergence` and `headlens redistribute`: heads that read pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.carry_out import Done, carry_out
from headlens.cli_options import SHOWN, Device, Dtype, Fresh, Out, folder_of

if TYPE_CHECKING:
    from headlens.work import Work

What = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name of `headlens models`, a Hugging Face id or a folder; or a .toml file with all of it, beside --out "
        "and --fresh.",
    ),
]
Image = Annotated[
    list[Path] | None, typer.Option("--image", help="A picture (PNG, JPEG, ...); more than one, one by one.")
]
Prompt = Annotated[str | None, typer.Option("--prompt", help="The text beside the picture, such as a question.")]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", help="How many tokens the model says at most.", show_default="40")
]


def look(
    model: What,
    image: Image = None,
    prompt: Prompt = None,
    answer: Annotated[
        str | None,
        typer.Option("--answer", help="An answer to read in place of the model's own.", show_default="the model's"),
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    heads: Annotated[
        str | None, typer.Option("--heads", help="Show these heads only, such as L2H5,L3H1.", show_default="all")
    ] = None,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
    fresh: Fresh = False,
) -> None:
    """Show where in a picture each head looks, word by word, while the model answers.

    report.html draws each head's attention over the picture; gaze.csv has a line for each word and head.

    \b
        headlens look tiny-vlm --image scene.png --prompt describe --out runs/look
    """
    from headlens.look_run import looked, looking, write_look

    said = {"answer": answer, "max_new_tokens": max_new_tokens, "heads": heads}
    work = _work("look", model, device, dtype, {"image": _image(image, prompt)}, said)
    folder = folder_of(out, work)
    done = carry_out(work, folder, fresh, lambda ready: looking(ready, folder, fresh))
    written = write_look(done.ready, work.source, done.result, folder)
    _say(done, looked(done), written, folder)


def divergence(
    model: What,
    image: Image = None,
    prompt: Prompt = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A .jsonl file of questions: image, prompt, answer. POPE's text and label are read too."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="scenes: questions about drawn scenes (tiny-vlm).")] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many scenes.", show_default="200")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which scenes.", show_default="0")] = None,
    negatives: Annotated[
        str | None,
        typer.Option(
            "--negatives", help="What is asked for in vain: random, popular or adversarial.", show_default="random"
        ),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option("--without", help="How the picture goes: deleted, blank or mean.", show_default="deleted"),
    ] = None,
    position: Annotated[
        str | None,
        typer.Option("--position", help="The text behind deleted tokens is shifted or kept.", show_default="shifted"),
    ] = None,
    relative: Annotated[bool | None, typer.Option("--relative", help="In shares of each head's output.")] = None,
    projected: Annotated[bool | None, typer.Option("--projected", help="In the residual stream.")] = None,
    zero_outliers: Annotated[
        bool | None, typer.Option("--zero-outliers", help="0 for heads that surge without the picture.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Prompts that run together.", show_default="8")] = None,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
    fresh: Fresh = False,
) -> None:
    """Measure how far each head's output moves when the picture is taken away (VHD, 2412.13949).

    \b
        headlens divergence tiny-vlm --image scene.png --prompt "is there a cup ?" --out runs/one
        headlens divergence tiny-vlm --task scenes --n 500 --negatives adversarial --out runs/scenes
        headlens divergence MODEL --data questions.jsonl --out runs/mine
    """
    from headlens.look_run import diverged, diverging
    from headlens.runs import write_results

    drawn = {key: value for key, value in (("n", n), ("seed", seed), ("negatives", negatives)) if value is not None}
    if drawn and task is None:
        raise ValueError(f"--{next(iter(drawn))} was given without --task scenes, which is what it is about.")
    reads = {
        "image": _image(image, prompt),
        "questions": None if data is None else {"file": str(data)},
        "task": None if task is None else {"name": task, **drawn},
    }
    said = {"without": without, "position": position, "relative": relative, "projected": projected}
    said |= {"zero_outliers": zero_outliers, "batch": batch}
    work = _work("divergence", model, device, dtype, reads, said)
    folder = folder_of(out, work)
    done = carry_out(work, folder, fresh, lambda ready: diverging(ready, folder, fresh))
    written = write_results(done.result, done.ready.files, folder)
    _say(done, diverged(done, SHOWN), written, folder)


def redistribute(
    model: What,
    image: Image = None,
    prompt: Prompt = None,
    move: Annotated[
        float | None,
        typer.Option("--move", help="The share of their attention that sinks give.", show_default="0.6, released 0.4"),
    ] = None,
    non_sink: Annotated[
        float | None,
        typer.Option(
            "--non-sink", help="The least share of visual attention that is not on sinks.", show_default="0.5"
        ),
    ] = None,
    floor: Annotated[
        float | None, typer.Option("--floor", help="The least share of attention on the image.", show_default="0.2")
    ] = None,
    convention: Annotated[
        str | None, typer.Option("--convention", help="paper or released.", show_default="paper")
    ] = None,
    dims: Annotated[
        str | None, typer.Option("--dims", help="Sink dimensions, such as 1415,2533.", show_default="found")
    ] = None,
    above: Annotated[
        float | None,
        typer.Option("--above", help="A sink has so many root mean squares there.", show_default="by the width"),
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Such as 2-29 or 2,5,8.", show_default="the convention's")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
    fresh: Fresh = False,
) -> None:
    """Move attention from sinks to image patches (VAR, 2503.03321): the answer and the gaze before and after.

    The map is how often each head was chosen; moved.csv counts what moved in each of them.

    \b
        headlens redistribute MODEL --image photo.jpg --prompt "What is on the table?" --out runs/moved
    """
    from headlens.moved_run import moved_words, moving, write_moved

    said = {"move": move, "non_sink": non_sink, "floor": floor, "convention": convention, "dims": dims}
    said |= {"above": above, "layers": layers, "max_new_tokens": max_new_tokens}
    work = _work("redistribute", model, device, dtype, {"image": _image(image, prompt)}, said)
    folder = folder_of(out, work)
    done = carry_out(work, folder, fresh, lambda ready: moving(ready, folder, fresh))
    written = write_moved(done.ready, work.source, done.result, folder)
    _say(done, moved_words(done, SHOWN), written, folder)


def _image(files: list[Path] | None, prompt: str | None) -> dict[str, Any] | None:
    """What these options say of the table [image], None where they say nothing."""
    named = {"files": [str(file) for file in files]} if files else {}
    return {**named, **({} if prompt is None else {"prompt": prompt})} or None


def _work(
    kind: str,
    model: str,
    device: str | None,
    dtype: str | None,
    reads: dict[str, dict[str, Any] | None],
    settings: dict[str, Any],
) -> "Work":
    """The work that a .toml file describes, or else these options; None is what was not typed."""
    from headlens.kinds import KINDS
    from headlens.sweepfile import read_work
    from headlens.work import Work

    given = {name: table for name, table in reads.items() if table is not None}
    chosen = {key: value for key, value in settings.items() if value is not None}
    if model.endswith(".toml"):
        others = {**{key: "" for table in given.values() for key in table}, **chosen}
        others |= {key: value for key, value in (("device", device), ("dtype", dtype)) if value is not None}
        typed = [f"--{_OPTIONS.get(key, key).replace('_', '-')}" for key in others]
        if typed:
            raise ValueError(f"{', '.join(typed)} was given beside {model}; beside a file go --out and --fresh only.")
        return read_work(Path(model), kind)
    _refuse_unclear(given)
    source = KINDS[kind].choose(given, lambda name: f"--{_SAID[name]}", Path())
    return Work(model, source, KINDS[kind].table(**chosen), kind, device, dtype)


def _refuse_unclear(given: dict[str, dict[str, Any]]) -> None:
    """ValueError for several tables, or for a picture without a prompt or the other way round."""
    if len(given) > 1:
        named = " and ".join(f"--{_SAID[name]}" for name in given)
        raise ValueError(f"{named} were given; one run reads one of them.")
    image = given.get("image", {"files": [], "prompt": ""})
    if "files" not in image:
        raise ValueError("--prompt was given without --image; give the picture that it is about.")
    if "prompt" not in image:
        first = image["files"][0]
        raise ValueError(f"--image {first} was given without --prompt; give the text beside it, such as a question.")


# Tables, and their keys, by the options that stand for them.
_SAID = {"image": "image", "questions": "data", "task": "task"}
_OPTIONS = {"files": "image", "file": "data", "name": "task"}


def _say(done: Done, words: str, written: list[str], folder: Path) -> None:
    typer.echo(f"{done.ready.model.name}: {words}")
    typer.echo(f"Wrote {', '.join(written)} in {folder}")
