"""Groups of a task's prompts, ready to be run with any set of edges, and what cut edges carry in them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from headlens.analyses.metrics import Metric, tokens_of
from headlens.analyses.prompt_groups import PromptGroup, group_prompts, group_whole_prompts
from headlens.analyses.run_metrics import logits_at_end
from headlens.analyses.sources import other_prompts
from headlens.analyses.task import Task
from headlens.hooks.edges.edge_ground import Ground, ground_of_run, ground_of_values
from headlens.hooks.edges.node_means import means, positional_means, zeros
from headlens.hooks.edges.node_values import NodeValues, record_values
from headlens.hooks.model import Model
from headlens.hooks.reading import Read

# Prompts of one group.
_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Grounded:
    """Prompts `indices` of a task, what they are run on, what is read of them, and the clean run's logits of that."""

    indices: list[int]
    task: Task
    ground: Ground
    read: Read
    clean: Tensor


def grounded(model: Model, task: Task, metric: Metric, source: str, seed: int) -> Iterator[Grounded]:
    """The prompts of the task in groups; pairs that do not differ before END are left out where the other run is read.

    `source` is one of `headlens.analyses.circuits.ablation.ABLATIONS`. ValueError for `resample` where a prompt has no
    other of its length, and for models whose edges cannot be run by themselves.
    """
    if source in ("other", "resample"):
        paired = source == "other"
        others = task.corrupted_tokens if paired else task.corrupted_tokens[other_prompts(task, seed)]
        for group in (group_prompts if paired else group_whole_prompts)(task, _AT_ONCE):
            clean, other = (group.rows(tokens).to(model.device) for tokens in (task.clean_tokens, others))
            yield _ready(model, task, metric, group, clean, ground_of_run(model, clean, other, group.start))
        return
    values = _fixed(model, task, source)
    for group in group_whole_prompts(task, _AT_ONCE):
        clean = group.rows(task.clean_tokens).to(model.device)
        yield _ready(model, task, metric, group, clean, ground_of_values(model, clean, values))


def _fixed(model: Model, task: Task, source: str) -> NodeValues:
    """Means over the corrupted prompts up to END, or zeros."""
    groups = group_whole_prompts(task, _AT_ONCE)
    runs = (record_values(model, group.rows(task.corrupted_tokens).to(model.device), 0)[1] for group in groups)
    return zeros(next(runs)) if source == "zero" else means(runs) if source == "mean" else positional_means(runs)


def _ready(model: Model, task: Task, metric: Metric, group: PromptGroup, clean: Tensor, ground: Ground) -> Grounded:
    own = task.subset(group.indices)
    tokens = tokens_of([metric], own)
    read = Read(None if tokens is None else tokens.to(model.device))
    return Grounded([*group.indices], own, ground, read, logits_at_end(model, clean, tokens))
