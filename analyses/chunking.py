"""How much of a sweep is held at once, and how much makes one chunk: sizes that follow from a bound on memory."""

from headlens.analyses.prompt_groups import PromptGroup
from headlens.analyses.sweep_plan import Plan
from headlens.analyses.task import Task
from headlens.hooks.base_run import bytes_per_prompt
from headlens.hooks.model import Model
from headlens.hooks.packing import packed_bytes
from headlens.hooks.record import parse_bytes
from headlens.hooks.sweep import ROWS


def packs(model: Model, plan: Plan) -> bool:
    """Whether packed copies of the weights fit into half of the memory."""
    bound = parse_bytes(plan.memory)
    return bound is None or packed_bytes(model) <= bound // 2


def largest_group(model: Model, task: Task, plan: Plan) -> int:
    """How many prompts fit into half of the memory that packing leaves; the other half is for the batch in flight."""
    bound = parse_bytes(plan.memory)
    if bound is None:
        return len(task)
    left = bound - packed_bytes(model) if packs(model, plan) else bound
    return max(1, left // 2 // bytes_per_prompt(model, task.clean_tokens.shape[1], plan.engine_site))


def bands(cells: int, group: PromptGroup, plan: Plan) -> list[slice]:
    """The cells of each chunk: as many as fill one batch of the engine, since a kill loses one chunk.

    Single positions are patched one after the other, in batches of their own; the middle one is taken as typical.
    """
    suffix = group.length - group.start
    height = max(1, ROWS // (len(group.indices) * ((suffix + 1) // 2 if plan.by_position else suffix)))
    return [slice(at, min(at + height, cells)) for at in range(0, cells, height)]
