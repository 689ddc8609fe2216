"""Which task a run is on, before there is a model: one by name with its maker's arguments, or a file of pairs."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, create_model

from headlens.tables import Table, checked

if TYPE_CHECKING:
    from headlens.analyses.tasks import Task
    from headlens.hooks.model import Model


class _Named(Table):
    """The one key that every task by name has; the others depend on the name."""

    model_config = ConfigDict(extra="ignore")
    name: str


class _OfFile(Table):
    file: str


@dataclass(frozen=True)
class TaskChoice:
    """A task that can be made once its model is there. `path` is its file of pairs, if it has one."""

    make: "Callable[[Model], Task]"
    settings: Mapping[str, Any]
    path: Path | None = None

    def resolved(self, task: "Task") -> dict[str, Any]:
        """The settings that make this very task again, its maker's defaults filled in."""
        if self.path is not None:
            return {"file": self.path.name}
        filled = {key: task.details.get(key, value) for key, value in self.settings.items()}
        return {key: value for key, value in filled.items() if value is not None}


def choose_task(given: Mapping[str, Any], where: str, folder: Path) -> TaskChoice:
    """The task of a table such as {name = "ioi", n = 8, corruption = "swap"} or {file = "pairs.jsonl"}.

    Files are looked up from `folder`. ValueError for a task, a key or a file that is not there, a value of the wrong
    type, or lines that are no pairs.
    """
    return _of_file(given, where, folder) if "file" in given else _by_name(given, where)


def _of_file(given: Mapping[str, Any], where: str, folder: Path) -> TaskChoice:
    from headlens.analyses.jsonl import read_pairs
    from headlens.analyses.tasks import Task

    path = folder / Path(checked(_OfFile, given, where).file).expanduser()
    # the run folder keeps a copy under its name, where other names may be taken
    if path.suffix != ".jsonl":
        raise ValueError(f"{where} has the file {str(path)!r}; expected a .jsonl file of pairs.")
    if not path.is_file():
        raise ValueError(f"There is no task file {str(path)!r}; expected one JSON object a line.")
    # now, and not when the model is there: a slip of the pen is told at once
    read_pairs(path)
    return TaskChoice(lambda model: Task.from_jsonl(model, path), {}, path)


def _by_name(given: Mapping[str, Any], where: str) -> TaskChoice:
    from headlens.analyses.tasks import named

    name = checked(_Named, given, where).name
    maker = named(name)
    arguments = checked(_arguments(maker), given, where)
    chosen = arguments.model_dump(exclude_unset=True, exclude={"name"})
    if chosen.get("n", 1) < 1:
        raise ValueError(f"n={chosen['n']} prompts were asked for; give at least 1.")
    return TaskChoice(lambda model: maker(model, **chosen), arguments.model_dump())


def _arguments(maker: Callable[..., "Task"]) -> type[Table]:
    """The table of a task by name: a key for each argument of its maker but the model."""
    arguments = [*inspect.signature(maker).parameters.values()][1:]
    fields: dict[str, Any] = {argument.name: (argument.annotation, argument.default) for argument in arguments}
    return create_model("Arguments", __base__=Table, name=(str, ...), **fields)
