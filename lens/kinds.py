"""The kinds of run: for each command that has run folders, its table in a run's file, and what it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headlens.attention_tables import CalibrateTable, SinksTable, StatsTable
from headlens.cell_tables import AttributeTable, SweepTable
from headlens.run_table import RunTable
from headlens.source import Source, read_only
from headlens.task_choice import choose_task
from headlens.text_choice import choose_text


@dataclass(frozen=True)
class Kind:
    """A run's own table, and of which kinds its task may be; one that only `reads` prompts may have a text instead."""

    table: type[RunTable]
    tasks: tuple[str, ...]
    # on the command line, where nobody says; None is English
    default_task: str | None
    reads: bool = False

    def choose(
        self,
        task: Mapping[str, Any] | None,
        text: Mapping[str, Any] | None,
        where: Callable[[str], str],
        folder: Path,
    ) -> Source:
        """The source of these tables, one at most; `where` says of a table's name where it was read."""
        if task is None:
            return choose_text(text or {}, where("text"), folder)
        chosen = choose_task(task, where("task"), folder, self.tasks)
        return read_only(chosen) if self.reads else chosen


KINDS = {
    "sweep": Kind(SweepTable, ("pairs",), "ioi"),
    "attribute": Kind(AttributeTable, ("pairs",), "ioi"),
    "stats": Kind(StatsTable, ("pairs", "choices"), None, reads=True),
    "sinks": Kind(SinksTable, ("pairs", "choices"), None, reads=True),
    "calibrate": Kind(CalibrateTable, ("choices",), "sentiment"),
}
