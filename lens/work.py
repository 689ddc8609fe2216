"""One run's work: as it was asked for, and ready to start, with the settings that would repeat it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headlens.catalogue import CATALOGUE
from headlens.cell_tables import CellTable
from headlens.task_choice import TaskChoice
from headlens.toml_text import toml

if TYPE_CHECKING:
    from headlens.analyses.sweep_plan import Plan
    from headlens.analyses.tasks import Task
    from headlens.hooks.model import Model

CONFIG_FILE = "config.toml"


@dataclass(frozen=True)
class Work:
    """What a run is of, by name: a model, a task, and cells to sweep or attribute (`kind`)."""

    model: str
    task: TaskChoice
    cells: CellTable
    kind: str = "sweep"
    device: str | None = None
    dtype: str | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Ready:
    """The same, made: nothing is missing but the run itself."""

    model: "Model"
    task: "Task"
    plan: "Plan"
    # by name, what the run folder keeps so that the run can be repeated
    files: dict[str, bytes]


def prepare(work: Work) -> Ready:
    """Load the model and make the task. ValueError for whatever does not fit, as early as it can be known."""
    from headlens.analyses.cell_grid import grid
    from headlens.analyses.positions import checked
    from headlens.models import load

    work.cells.plan()
    model = load(work.model, device=work.device, dtype=work.dtype)
    task = work.task.make(model)
    plan = work.cells.plan(task.metric)
    checked(plan.positions, task)
    grid(model, task, plan)
    return Ready(model, task, plan, _files(work, model, task, plan))


def _files(work: Work, model: "Model", task: "Task", plan: "Plan") -> dict[str, bytes]:
    settings = {
        "model": _findable(work.model),
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "task": work.task.resolved(task),
        work.kind: work.cells.resolved(plan),
    }
    files = {CONFIG_FILE: toml(settings).encode()}
    if work.task.path is not None:
        files[work.task.path.name] = work.task.path.read_bytes()
    return files


def _findable(name: str) -> str:
    """The model's name, by which it is found from any folder."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in CATALOGUE and path.is_dir() else name
