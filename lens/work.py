"""One run's work: as it was asked for, and ready to start, with the settings that would repeat it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlens.catalogue import CATALOGUE
from headlens.run_table import RunTable
from headlens.source import Source, check_seed
from headlens.toml_text import toml

if TYPE_CHECKING:
    from headlens.hooks.model import Model

CONFIG_FILE = "config.toml"


@dataclass(frozen=True)
class Work:
    """What a run is of, by name: a model, what it reads, and what is done with it (`kind`, such as "sweep")."""

    model: str
    source: Source
    table: RunTable
    kind: str = "sweep"
    device: str | None = None
    dtype: str | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Ready:
    """The same, made: nothing is missing but the run itself."""

    model: "Model"
    # a Task, a ChoiceTask, Prompts where they are only read, or Samples with pictures
    task: Any
    # what the work's table makes of itself
    plan: Any
    # by name, what the run folder keeps so that the run can be repeated
    files: dict[str, bytes]


def prepare(work: Work) -> Ready:
    """Load the model and make the task. ValueError for whatever does not fit, as early as it can be known."""
    from headlens.models import load

    for seed in (work.source.settings.get("seed"), getattr(work.table, "seed", None)):
        check_seed(seed or 0)
    work.table.check()
    model = load(work.model, device=work.device, dtype=work.dtype)
    task = work.source.make(model)
    plan = work.table.fitted(model, task)
    return Ready(model, task, plan, _files(work, model, task, plan))


def _files(work: Work, model: "Model", task: Any, plan: Any) -> dict[str, bytes]:
    settings = {
        "model": _findable(work.model),
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        work.source.table: work.source.resolved(task),
        work.kind: work.table.resolved(plan),
    }
    files = {CONFIG_FILE: toml(settings).encode()}
    return {**files, **{path.name: path.read_bytes() for path in work.source.files}}


def _findable(name: str) -> str:
    """The model's name, by which it is found from any folder."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in CATALOGUE and path.is_dir() else name
