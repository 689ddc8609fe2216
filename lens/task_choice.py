"""Which task a run is on, before there is a model: one by name with its maker's arguments, or a file of prompts.

There are tasks of "pairs" (clean and corrupted prompts) and of "choices" (prompts with choices, one of them right).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, create_model

from headlens.hooks.nearest import did_you_mean
from headlens.source import Source, file_of
from headlens.tables import Table, checked

if TYPE_CHECKING:
    from headlens.analyses.choice_task import ChoiceTask
    from headlens.analyses.task import Task

    Maker = Callable[..., Task | ChoiceTask]

IN_WORDS = {"pairs": "pairs of a clean and a corrupted prompt", "choices": "prompts with choices"}


class _Named(Table):
    """The one key that every task by name has; the others depend on the name."""

    model_config = ConfigDict(extra="ignore")
    name: str


class _OfFile(Table):
    file: str


def choose_task(given: Mapping[str, Any], where: str, folder: Path, kinds: Sequence[str] = ("pairs",)) -> Source:
    """The task of a table such as {name = "ioi", n = 8, corruption = "swap"} or {file = "pairs.jsonl"}.

    Files are looked up from `folder`. ValueError for a task that is of none of these kinds, a key or a file that is not
    there, a value of the wrong type, or lines that are no such prompts.
    """
    return _of_file(given, where, folder, kinds) if "file" in given else _by_name(given, where, kinds)


def maker_of(name: str, kinds: Sequence[str] = ("pairs", "choices")) -> "Maker":
    """The function (model, n, seed, ...) that makes the task of this name. ValueError names the nearest one."""
    makers = makers_by_kind()
    for kind in kinds:
        if name in makers[kind]:
            return makers[kind][name]
    known = [each for kind in kinds for each in makers[kind]]
    needed = " or ".join(IN_WORDS[kind] for kind in kinds)
    if any(name in others for others in makers.values()):
        raise ValueError(f"The task {name!r} is not of {needed}; the tasks that are: {', '.join(known)}.")
    raise ValueError(
        f"Unknown task {name!r}{did_you_mean(name, known)}; the tasks are {', '.join(known)}, and a .jsonl file has "
        f"{needed} of your own."
    )


def makers_by_kind() -> "dict[str, Mapping[str, Maker]]":
    """Every task that comes with headlens, by its kind and then its name."""
    from headlens.analyses import choice_tasks, tasks

    return {"pairs": tasks.REGISTRY, "choices": choice_tasks.REGISTRY}


def _by_name(given: Mapping[str, Any], where: str, kinds: Sequence[str]) -> Source:
    maker = maker_of(checked(_Named, given, where).name, kinds)
    arguments = checked(_arguments(maker), given, where)
    chosen = arguments.model_dump(exclude_unset=True, exclude={"name"})
    if chosen.get("n", 1) < 1:
        raise ValueError(f"n={chosen['n']} prompts were asked for; give at least 1.")
    return Source("task", lambda model: maker(model, **chosen), arguments.model_dump())


def _arguments(maker: "Maker") -> type[Table]:
    """The table of a task by name: a key for each argument of its maker but the model."""
    arguments = [*inspect.signature(maker).parameters.values()][1:]
    fields: dict[str, Any] = {argument.name: (argument.annotation, argument.default) for argument in arguments}
    return create_model("Arguments", __base__=Table, name=(str, ...), **fields)


def _of_file(given: Mapping[str, Any], where: str, folder: Path, kinds: Sequence[str]) -> Source:
    from headlens.analyses.choice_prompts import as_choice_prompt
    from headlens.analyses.choice_task import ChoiceTask
    from headlens.analyses.jsonl import read_pairs
    from headlens.analyses.jsonl_objects import read_objects
    from headlens.analyses.tasks import Task

    of_what = " or ".join(IN_WORDS[kind] for kind in kinds)
    path = file_of(checked(_OfFile, given, where).file, ".jsonl", of_what, where, folder)
    if not path.is_file():
        raise ValueError(f"There is no task file {str(path)!r}; expected one JSON object a line.")
    # now, and not when the model is there: a slip of the pen is told at once
    read = read_objects(path)
    with_choices = kinds == ("choices",) or ("choices" in kinds and any("choices" in each for _, each in read[:1]))
    if with_choices:
        for line, each in read:
            as_choice_prompt(each, line)
    else:
        read_pairs(path)
    made_by = ChoiceTask if with_choices else Task
    return Source("task", lambda model: made_by.from_jsonl(model, path), {"file": path.name}, path)
