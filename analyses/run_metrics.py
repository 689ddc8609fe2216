"""The metric of whole, unpatched runs: what a fraction of the clean behaviour is a fraction of."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.analyses.end_runs import RUNS
from headlens.analyses.metrics import Metric, measured, tokens_of
from headlens.analyses.prompt_groups import group_whole_prompts
from headlens.analyses.task import Task
from headlens.hooks.inputs import known_words
from headlens.hooks.model import Model

# Prompts of one forward pass.
_AT_ONCE = 32


def run_metrics(model: Model, task: Task, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """The metric of each prompt [prompt] in the clean and in the corrupted run, in the metric's units."""
    found = {run: np.zeros(len(task), np.float32) for run in RUNS}
    for group in group_whole_prompts(task, _AT_ONCE):
        own = task.subset(group.indices)
        wanted = tokens_of([metric], own)
        runs = (group.rows(tokens).to(model.device) for tokens in (task.clean_tokens, task.corrupted_tokens))
        read = [logits_at_end(model, tokens, wanted) for tokens in runs]
        for run, logits in zip(RUNS, read, strict=True):
            values = measured([metric], logits, own, read[0])
            found[run][list(group.indices)] = values[:, 0].cpu().numpy()
    return found["clean"], found["corrupted"]


@torch.no_grad()
def logits_at_end(
    model: Model, tokens: Int[Tensor, "prompt pos"], wanted: Int[Tensor, "prompt token"] | None
) -> Float[Tensor, "prompt token"]:
    """What plain runs of equally long prompts say at their last position of the wanted tokens (None: of all)."""
    last_alone = known_words(model.hf, logits_to_keep=1)
    logits = model.hf(input_ids=tokens, use_cache=False, **last_alone).logits[:, -1].float()
    return logits if wanted is None else logits.gather(-1, wanted.to(logits.device))
