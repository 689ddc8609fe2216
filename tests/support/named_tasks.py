"""Ragged prompts that hold their answers and foils here and there, or not at all."""

from dataclasses import replace

import torch

from end_tasks import ragged_task
from headlens.analyses.task import Task

GONE = 95


def about(task: Task, answers: torch.Tensor, foils: torch.Tensor) -> Task:
    """The same prompts with other answers and foils."""
    return replace(task, answers=answers, foils=foils, answer_sets=(), foil_sets=())


def named_task() -> Task:
    """Answers that prompts hold twice, once, at END (two of them), only behind END, and not at all; foils at 3."""
    task = ragged_task()
    rows = task.clean_tokens.clone()
    rows[0, 8] = rows[0, 2]
    rows[4, 6] = GONE - 1
    answers = rows[torch.arange(6), torch.tensor([2, 1, 8, 8, 6, 5])].clone()
    answers[5] = GONE
    return about(replace(task, clean_tokens=rows), answers, rows[:, 3].clone())
