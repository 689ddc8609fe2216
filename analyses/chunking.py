"""How much of a sweep is held at once, and how much makes one chunk: sizes that follow from a bound on memory."""

import numpy as np

from headlens.analyses.prompt_groups import PromptGroup
from headlens.analyses.sweep_plan import Plan
from headlens.analyses.task import Task
from headlens.hooks.base_run import bytes_per_prompt
from headlens.hooks.model import Model
from headlens.hooks.packing import packed_bytes
from headlens.hooks.record import parse_bytes
from headlens.hooks.room import rows_of_the_card
from headlens.hooks.sweep import ROWS

# Packing the weights takes about as long as it saves on this many rows.
_WORTH_PACKING = 1024


def packs(model: Model, plan: Plan, rows: int) -> bool:
    """Whether packed copies of the weights are worth making for so many rows, and fit into half of the memory."""
    return rows > _WORTH_PACKING and _fits_packed(model, plan)


def _fits_packed(model: Model, plan: Plan) -> bool:
    bound = parse_bytes(plan.memory)
    # elsewhere nothing is packed
    return model.device.type == "cpu" and (bound is None or packed_bytes(model) <= bound // 2)


def largest_group(model: Model, task: Task, plan: Plan) -> int:
    """How many prompts fit into half of the memory that packing leaves; the other half is for the batch in flight."""
    bound = parse_bytes(plan.memory)
    if bound is None:
        return len(task)
    left = bound - packed_bytes(model) if _fits_packed(model, plan) else bound
    return max(1, left // 2 // bytes_per_prompt(model, task.clean_tokens.shape[1], plan.engine_site))


def bands(model: Model, cells: np.ndarray, group: PromptGroup, plan: Plan) -> list[np.ndarray]:
    """The cells of each chunk, out of those to patch: as many as fill one batch of the engine.

    A kill loses one chunk. Single positions are patched one after the other, in batches of their own; the middle one is
    taken as typical. On a GPU chunks follow from its whole memory, since a resumed run must have the same ones.
    """
    suffix = group.length - group.start
    typical = (suffix + 1) // 2 if plan.by_position else suffix
    rows = rows_of_the_card(model, group.length, typical)
    height = max(1, (ROWS if rows is None else rows) // (len(group.indices) * typical))
    return [cells[at : at + height] for at in range(0, len(cells), height)]
