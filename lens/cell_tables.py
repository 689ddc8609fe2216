"""The tables [sweep] and [attribute]: what is measured, at which cells. Lists may be text, as on the command line."""

from typing import TYPE_CHECKING, Any

from headlens.run_table import Listed, RunTable, parts

if TYPE_CHECKING:
    from headlens.analyses.sweep_plan import Plan
    from headlens.analyses.task import Task
    from headlens.hooks.model import Model


class CellTable(RunTable):
    """What every table of cells has. None leaves the axes to the site, the metric to the task, and all positions in."""

    site: str = "z"
    axes: Listed = None
    metric: Listed = None
    direction: str = "denoising"
    positions: int | str | list[int | str] | None = None

    def check(self) -> None:
        """ValueError for what is not available at any model's cells."""
        self.plan()

    def fitted(self, model: "Model", task: "Task") -> "Plan":
        """The plan of this task. ValueError for a position or a head that is not there."""
        from headlens.analyses.cell_grid import grid
        from headlens.analyses.positions import checked

        plan = self.plan(task.metric)
        checked(plan.positions, task)
        grid(model, task, plan)
        return plan

    def plan(self, own_metric: str = "logit_diff") -> "Plan":
        """The checked plan, with the task's own metric where none is given. ValueError names what is not available."""
        from headlens.analyses.sweep_plan import plan

        return plan(
            self.site,
            parts(self.axes),
            parts(self.metric) or own_metric,
            self.direction,
            positions=_positions(self.positions),
            **self._more(),
        )

    def _more(self) -> dict[str, Any]:
        return {}

    def resolved(self, fitted: "Plan") -> dict[str, Any]:
        """The settings that make this very plan again, whatever the defaults."""
        # a seed that draws nothing is no part of the plan
        found = {**self.model_dump(exclude={"seed"}), **fitted.described()}
        return {key: found[key] for key in type(self).model_fields if found.get(key) is not None}


class SweepTable(CellTable):
    """[sweep]: the arguments of `headlens.patch_sweep`."""

    source: str = "other"
    heads: str | list[str] | list[list[str]] | None = None
    seed: int = 0
    memory: str | int = "1GiB"

    def _more(self) -> dict[str, Any]:
        return {"source": self.source, "heads": _sets(self.heads), "seed": self.seed, "memory": self.memory}


class AttributeTable(CellTable):
    """[attribute]: the arguments of `headlens.attribute`."""

    steps: int = 1

    def plan(self, own_metric: str = "logit_diff") -> "Plan":
        """The checked plan, of one metric that has a gradient."""
        from headlens.analyses.attribution import check

        found = super().plan(own_metric)
        check(found, self.steps)
        return found


def _positions(given: int | str | list[int | str] | None) -> list[int | str] | None:
    """Positions, numbers among them as such: "S2,9" is ["S2", 9]."""
    if given is None or isinstance(given, int):
        return given if given is None else [given]
    several = given.split(",") if isinstance(given, str) else given
    texts = [place.strip() if isinstance(place, str) else place for place in several]
    return [int(place) if isinstance(place, str) and place.isdecimal() else place for place in texts]


def _sets(given: str | list[str] | list[list[str]] | None) -> Any:
    """Text such as "L23H3+L20H0,L5H1" as sets of heads; lists are sets already."""
    return [_set(some) for some in given.split(",")] if isinstance(given, str) else given


def _set(text: str) -> list[str]:
    return [head.strip() for head in text.split("+")]
