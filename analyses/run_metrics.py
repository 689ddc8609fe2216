"""The metric of whole, unpatched runs: what a fraction of the clean behaviour is a fraction of."""

import numpy as np
import torch

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
    last_alone = known_words(model.hf, logits_to_keep=1)
    for group in group_whole_prompts(task, _AT_ONCE):
        own = task.subset(group.indices)
        with torch.no_grad():
            clean, corrupted = (
                model.hf(input_ids=group.rows(tokens).to(model.device), use_cache=False, **last_alone).logits[:, -1]
                for tokens in (task.clean_tokens, task.corrupted_tokens)
            )
        wanted = tokens_of([metric], own)
        read = [each if wanted is None else each.gather(-1, wanted.to(each.device)) for each in (clean, corrupted)]
        for run, logits in zip(RUNS, read, strict=True):
            values = measured([metric], logits.float(), own, read[0].float())
            found[run][list(group.indices)] = values[:, 0].cpu().numpy()
    return found["clean"], found["corrupted"]
