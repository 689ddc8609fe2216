"""A run of `headlens reuse` from what was typed to what is printed: tasks, maps, tables, and the published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlens.presets import Preset, preset
from headlens.source import Source, check_seed
from headlens.task_choice import choose_task

if TYPE_CHECKING:
    from headlens.analyses.circuits.repair import Repair
    from headlens.analyses.circuits.reuse import Reuse
    from headlens.analyses.task import Task
    from headlens.hooks.model import Model

OVERLAP_FILE, RANKS_FILE, REPAIR_FILE, REPORT_FILE = "overlap.csv", "ranks.csv", "repair.csv", "report.html"
TOP = 0.02
# The arm of a preset's published accuracies in which nothing is forced.
NO_EDIT = "none"
TASKS = ("ioi", "colored_objects")


@dataclass(frozen=True)
class Asked:
    """A run as it was asked for; `positions` are where stages receive, by task."""

    model: str
    tasks: tuple[Source, ...]
    top: float
    device: str | None = None
    dtype: str | None = None
    positions: Mapping[str, Any] = field(default_factory=dict)
    protocol: Preset | None = None


def asked(
    model: str,
    tasks: Sequence[str],
    protocol: str | None,
    n: int | None,
    seed: int | None,
    top: float | None,
    device: str | None,
    dtype: str | None,
) -> Asked:
    """The run that these options name. ValueError for what does not go together."""
    check_seed(seed or 0)
    drawn = {key: value for key, value in (("n", n), ("seed", seed)) if value is not None}
    if protocol is None:
        chosen = tuple(_source(task, drawn) for task in tasks or TASKS)
        return Asked(model, chosen, TOP if top is None else top, device, dtype)
    typed = [name for name, given in (("tasks", tasks), ("--top", top)) if given]
    if typed:
        raise ValueError(f"{' and '.join(typed)} beside --preset {protocol}: the preset says that itself.")
    found = preset(protocol)
    made = ({"name": name, "n": found.n, **arguments, **drawn} for name, arguments in found.tasks.items())
    sources = tuple(choose_task(table, f"preset {protocol}", Path()) for table in made)
    return Asked(model, sources, found.top, device, dtype, found.positions, found)


def _source(task: str, drawn: Mapping[str, Any]) -> Source:
    if task.endswith(".jsonl"):
        return choose_task({"file": task}, "the command line", Path())
    return choose_task({"name": task, **drawn}, "the command line", Path())


def run(work: Asked, folder: Path, fresh: bool) -> str:
    """Carry the run out in its folder, and say in words what was found. ValueError for whatever does not fit."""
    from headlens.analyses.atomic import write_text
    from headlens.analyses.circuits.reuse import reuse
    from headlens.models import load

    model = load(work.model, device=work.device, dtype=work.dtype)
    if work.protocol is not None:
        _refuse_other_sizes(model, work.protocol)
    tasks = [source.make(model) for source in work.tasks]
    found = reuse(model, tasks, work.top, positions=work.positions, run=folder, resume=not fresh)
    written = _write(found, folder)
    lines = [found.described()]
    if work.protocol is not None:
        repaired = _repaired(model, tasks, work.protocol)
        write_text(folder / REPAIR_FILE, repaired.to_frame().to_csv(index=False, lineterminator="\n"))
        written.append(REPAIR_FILE)
        lines += [repaired.described(), beside_published(found, repaired, work.protocol)]
    return "\n".join([*lines, f"Wrote {', '.join(written)} and maps/ in {folder}"])


def beside_published(found: "Reuse", repaired: "Repair", protocol: Preset) -> str:
    """The paper's figures beside these, a line each."""
    first, second = found.tasks[:2]
    shared, said = found.overlap(first, second)["all"], protocol.published
    lines = [
        f"{'':24}{'here':>10}{'paper':>10}",
        f"{'shared heads':24}{f'{len(shared.shared)}/{shared.k}':>10}{f'{said.shared}/{said.of}':>10}",
    ]
    for arm, published in said.accuracy.items():
        right = (repaired.before if arm == NO_EDIT else repaired.after[arm]).right.mean()
        lines.append(f"{f'accuracy, {arm}':24}{right:>10.1%}{published:>10.1%}")
    return "\n".join(lines)


def _write(found: "Reuse", folder: Path) -> list[str]:
    """The tables and the page, atomically; returns their names."""
    from headlens.analyses.atomic import write_text
    from headlens.report import write_report

    for name, frame in ((OVERLAP_FILE, found.to_frame()), (RANKS_FILE, found.ranks())):
        write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
    write_report(found.as_map(), folder / REPORT_FILE)
    return [OVERLAP_FILE, RANKS_FILE, REPORT_FILE]


def _repaired(model: "Model", tasks: list["Task"], protocol: Preset) -> "Repair":
    from headlens.analyses.circuits.repair import repair

    task = next(each for each in tasks if each.name == protocol.repair.task)
    return repair(model, task, protocol.repair.arms, n_random=protocol.repair.draws)


def _refuse_other_sizes(model: "Model", protocol: Preset) -> None:
    if (model.n_layers, model.n_heads) != (protocol.layers, protocol.heads):
        raise ValueError(
            f"The preset of {protocol.paper} names heads of a model with {protocol.layers} layers of {protocol.heads} "
            f"heads; {model.name!r} has {model.n_layers} of {model.n_heads}. Leave --preset out, and give tasks."
        )
