"""`headlens tasks`: which tasks there are, and what their prompts look like to a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli_options import ModelName, Prompts, Seed
from headlens.source import check_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from headlens.analyses.choice_task import ChoiceTask
    from headlens.analyses.tasks import Task


def tasks(
    task: Annotated[str | None, typer.Argument(help="A task by name; without one, all are listed.")] = None,
    model: ModelName = "smollm2-135m",
    n: Prompts = 3,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Write the prompts to this .jsonl file instead.")] = None,
) -> None:
    """List the tasks, or show prompts of one as a model's tokenizer sees them.

    Tasks of pairs are for sweep and attribute, those with choices for calibrate; stats and sinks read either.
    """
    from headlens.task_choice import IN_WORDS, maker_of, makers_by_kind

    if task is None:
        if out is not None:
            raise ValueError("--out was given without a task; name the one to write.")
        makers = makers_by_kind()
        width = max(len(name) for some in makers.values() for name in some)
        for kind, some in makers.items():
            typer.echo(f"{IN_WORDS[kind]}:")
            for name, listed in some.items():
                summary = (listed.__doc__ or "-").splitlines()[0]
                typer.echo(f"  {name:<{width}}  {summary}")
        return
    # before the model is loaded: a slip of the pen is told at once
    make = maker_of(task)
    check_seed(seed)

    from headlens.analyses.choice_task import ChoiceTask
    from headlens.analyses.tokens import tokenizer_of
    from headlens.models import load

    loaded = load(model)
    made = make(loaded, n, seed)
    prompts = f"{len(made)} {'prompts' if isinstance(made, ChoiceTask) else 'pairs'}"
    if out is not None:
        made.to_jsonl(out)
        typer.echo(f"Wrote {prompts} of {made.name} to {out}")
        return
    scored = f"accuracy by chance {made.chance:.1%}" if isinstance(made, ChoiceTask) else f"metric {made.metric}"
    typer.echo(f"{made.name}: {prompts} of {int(made.lengths.max())} tokens or fewer, {scored}")
    tokenizer = tokenizer_of(loaded)
    for prompt in range(len(made)):
        one = _choices(made, prompt, tokenizer) if isinstance(made, ChoiceTask) else _pair(made, prompt, tokenizer)
        typer.echo("\n".join(one))


def _pair(task: "Task", prompt: int, tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    """The lines that show one pair. Positions say the clean token, and the corrupted one where it is another."""

    def spelt(*tokens: int) -> str:
        return " ".join(repr(tokenizer.decode([token])) for token in tokens)

    length = int(task.lengths[prompt])
    clean, corrupted = (row[prompt, :length].tolist() for row in (task.clean_tokens, task.corrupted_tokens))
    texts = [text or tokenizer.decode(row) for text, row in zip(task.texts[prompt], (clean, corrupted), strict=True)]
    yield f"\n{task.templates[prompt]}"
    yield f"  clean      {texts[0]}"
    yield f"  corrupted  {texts[1]}"
    yield f"  answer     {spelt(int(task.answers[prompt]))}"
    yield f"  foil       {spelt(int(task.foils[prompt]))}"
    if task.has_sets:
        yield f"  right      {spelt(*task.answer_sets[prompt])}"
        yield f"  wrong      {spelt(*task.foil_sets[prompt])}"
    for name, positions in task.positions.items():
        at = int(positions[prompt])
        changed = f" -> {spelt(corrupted[at])}" if corrupted[at] != clean[at] else ""
        yield f"  {name:<9}  {at} {spelt(clean[at])}{changed}"


def _choices(task: "ChoiceTask", prompt: int, tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    """The lines that show one prompt and its choices, the right one with a mark."""
    tokens = task.tokens[prompt, : int(task.lengths[prompt])].tolist()
    first, *more = str(task.texts[prompt] or tokenizer.decode(tokens)).split("\n")
    yield f"\n{task.templates[prompt]}"
    yield f"  prompt     {first}"
    for line in more:
        yield f"             {line}"
    for at, token in enumerate(task.choices[prompt, : int(task.counts[prompt])].tolist()):
        mark = "  (right)" if at == int(task.answers[prompt]) else ""
        yield f"  {'choices' if at == 0 else '':<9}  {tokenizer.decode([token])!r}{mark}"
