"""The kinds of run: for each command that has run folders, its table in a run's file, and what it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headlens.attention_tables import CalibrateTable, SinksTable, StatsTable
from headlens.cell_tables import AttributeTable, SweepTable
from headlens.image_choice import choose_pictures
from headlens.run_table import RunTable
from headlens.source import Source, read_only
from headlens.task_choice import choose_task
from headlens.text_choice import choose_text
from headlens.vision_tables import DivergenceTable, LookTable, RedistributeTable


@dataclass(frozen=True)
class Kind:
    """A run's own table, and of which kinds its task may be; one that only `reads` prompts may have a text instead, and
    one about `pictures` has one of these tables in place of both."""

    table: type[RunTable]
    tasks: tuple[str, ...]
    # on the command line, where nobody says; None is English
    default_task: str | None
    reads: bool = False
    pictures: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The tables that may say what is read, one at a time."""
        return self.pictures or (("task", "text") if self.reads else ("task",))

    def choose(self, given: Mapping[str, Mapping[str, Any]], where: Callable[[str], str], folder: Path) -> Source:
        """The source of these tables by name, one at most; `where` says of a table's name where it was read."""
        if self.pictures:
            return choose_pictures(given, where, folder)
        if "task" not in given:
            return choose_text(given.get("text", {}), where("text"), folder)
        chosen = choose_task(given["task"], where("task"), folder, self.tasks)
        return read_only(chosen) if self.reads else chosen


KINDS = {
    "sweep": Kind(SweepTable, ("pairs",), "ioi"),
    "attribute": Kind(AttributeTable, ("pairs",), "ioi"),
    "stats": Kind(StatsTable, ("pairs", "choices"), None, reads=True),
    "sinks": Kind(SinksTable, ("pairs", "choices"), None, reads=True),
    "calibrate": Kind(CalibrateTable, ("choices",), "sentiment"),
    "look": Kind(LookTable, (), None, pictures=("image",)),
    "divergence": Kind(DivergenceTable, (), None, pictures=("image", "questions", "task")),
    "redistribute": Kind(RedistributeTable, (), None, pictures=("image",)),
}
