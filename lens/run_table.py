"""What every table of a run's file, such as [sweep], can do: be checked, be fitted to a model, be written again."""

from typing import TYPE_CHECKING, Any

from headlens.tables import Table

if TYPE_CHECKING:
    from headlens.hooks.model import Model

Listed = str | list[str] | None


class RunTable(Table):
    """What is done in a run, as its settings say. Lists may be text with commas, as on the command line."""

    def check(self) -> None:
        """ValueError for what cannot fit, whatever the model and the prompts."""
        raise NotImplementedError

    def fitted(self, model: "Model", task: Any) -> Any:
        """What to carry out on this model and task, or prompts. ValueError for what does not fit them."""
        raise NotImplementedError

    def resolved(self, fitted: Any) -> dict[str, Any]:
        """The settings that make the same again, whatever the defaults."""
        raise NotImplementedError


def parts(given: Listed) -> list[str] | None:
    """Text such as "layer,head" as a list."""
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given
