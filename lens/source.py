"""What a run reads, before there is a model: prompts that can be made once it is there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlens.hooks.model import Model


@dataclass(frozen=True)
class Source:
    """What a run reads by its settings, which stand in this `table` of a run's file: "task", "text" or "image".

    `path` is the file that it is in, if any, and `pictures` are those that the settings name; run folders keep both.
    """

    table: str
    make: "Callable[[Model], Any]"
    settings: Mapping[str, Any]
    path: Path | None = None
    pictures: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All of these files."""
        return (*(() if self.path is None else (self.path,)), *self.pictures)

    def resolved(self, made: Any) -> dict[str, Any]:
        """The settings that make the very same again, its maker's defaults filled in."""
        filled = {key: made.details.get(key, value) for key, value in self.settings.items()}
        return {key: value for key, value in filled.items() if value is not None}


def check_seed(seed: int) -> None:
    """ValueError for a negative one, which nothing can be drawn by."""
    if seed < 0:
        raise ValueError(f"seed={seed} was given; expected a whole number from 0.")


def read_only(source: Source) -> Source:
    """The same as `Prompts`, for a run that looks at prompts and not at answers."""

    def prompts(model: "Model") -> Any:
        from headlens.analyses.prompts import Prompts, prompts_of_task

        made = source.make(model)
        return made if isinstance(made, Prompts) else prompts_of_task(model, made)

    return replace(source, make=prompts)


def file_of(given: str, suffix: str, of_what: str, where: str, folder: Path) -> Path:
    """A file that `where` names, looked up from `folder`. ValueError unless its name ends in `suffix`."""
    path = folder / Path(given).expanduser()
    # the run folder keeps a copy under its name, where other names may be taken
    if path.suffix != suffix:
        raise ValueError(f"{where} has the file {str(path)!r}; expected a {suffix} file of {of_what}.")
    return path
