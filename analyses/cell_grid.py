"""The cells of a sweep in order, and the rows at which each is patched: from a plan to what the engine takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from headlens.analyses.positions import rows_at
from headlens.analyses.prompt_groups import PromptGroup
from headlens.analyses.sweep_plan import Plan, has_heads
from headlens.analyses.task import Task
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.model import Model
from headlens.hooks.sites import SITE_AXES, Head, parse_heads


@dataclass(frozen=True)
class Grid:
    """What is patched [cell] and where [place], each with the shape it has in the result."""

    cells: tuple[Cell, ...]
    cell_shape: tuple[int, ...]
    place_shape: tuple[int, ...]
    coords: dict[str, Sequence[int | str]]

    @property
    def places(self) -> int:
        return int(np.prod(self.place_shape, dtype=int))


def grid(model: Model, task: Task, plan: Plan) -> Grid:
    """The cells of a plan on this model. ValueError for a site or a head that the model does not have."""
    missing = [at for at, layer in enumerate(model.layers) if not layer.has(plan.site)]
    if missing:
        raise ValueError(
            f"{model.name!r} has no {plan.site!r} in layer {missing[0]}: its attention and MLP run in parallel."
        )
    longest = task.clean_tokens.shape[1]
    places = {
        "pos": tuple(range(longest)) if plan.positions is None else plan.positions,
        "query": tuple(range(longest)),
        "key": tuple(range(longest)),
    }
    coords: dict[str, Sequence[int | str]] = {dim: places[dim] for dim in plan.axes if dim in places}
    place_shape = tuple(len(entries) for entries in coords.values())
    n_heads = model.n_kv_heads if "kv_head" in SITE_AXES[plan.site] else model.n_heads
    if plan.heads is not None:
        for some in plan.heads:
            parse_heads(list(some), model.n_layers, n_heads)
        names = tuple("+".join(str(head) for head in some) for some in plan.heads)
        cells = tuple(Cell.of_heads(some) for some in plan.heads)
        return Grid(cells, (len(cells),), place_shape, {"heads": names, **coords})
    layers = range(model.n_layers)
    if "head" in plan.axes:
        cells = tuple(Cell.of_heads([Head(layer, head)]) for layer, head in product(layers, range(n_heads)))
        return Grid(cells, (model.n_layers, n_heads), place_shape, coords)
    whole = [Head(layer, head) for layer, head in product(layers, range(n_heads))] if has_heads(plan.site) else []
    cells = tuple(
        Cell.of_heads(head for head in whole if head.layer == layer) if whole else Cell.of_layer(layer)
        for layer in layers
    )
    return Grid(cells, (model.n_layers,), place_shape, coords)


def places(task: Task, plan: Plan, group: PromptGroup) -> list[tuple[int, Rows]]:
    """The places at which a group's cells may move, as (index of the place, rows)."""
    prompts, length, longest = len(group.indices), group.length, task.clean_tokens.shape[1]
    if "query" in plan.axes:
        entries = [(query, key) for query in range(group.start, length) for key in range(query + 1)]
        return [(query * longest + key, Rows.at(query, prompts, length, key)) for query, key in entries]
    if not plan.by_position:
        if plan.positions is None:
            return [(0, Rows.everywhere(prompts, length))]
        return [(0, Rows(rows_at(plan.positions, task, group)))]
    if plan.positions is None:
        return [(pos, Rows.at(pos, prompts, length)) for pos in range(group.start, length)]
    return [(index, Rows(rows_at([position], task, group))) for index, position in enumerate(plan.positions)]


def there(task: Task, plan: Plan, grid: Grid) -> np.ndarray:
    """Which places each prompt has, as booleans [prompt, place]: within its tokens; no key behind its query."""
    lengths = task.lengths.numpy()[:, None]
    if "query" in plan.axes:
        query, key = (axis.reshape(-1) for axis in np.indices(grid.place_shape))
        return (query < lengths) & (key <= query)
    if not plan.by_position or plan.positions is not None:
        return np.ones((len(task), grid.places), bool)
    return np.arange(grid.places) < lengths
