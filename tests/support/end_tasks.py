"""Models and prompts that no analysis at END could get right by luck."""

from functools import cache

import torch

from headlens.analyses.task import Task
from headlens.hooks.model import Model, wrap
from tiny_models import tiny


def scrambled_weights(name: str):
    """A tiny model whose norms and biases are not 1 and 0, as those of random models are."""
    hf, draw = tiny(name), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return hf


@cache
def scrambled(name: str) -> Model:
    return wrap(scrambled_weights(name), name=f"scrambled-{name}")


def ragged_task() -> Task:
    """Prompts of three lengths, two of which are read before their last token, out of order."""
    lengths, ends = torch.tensor([12, 7, 12, 9, 7, 12]), torch.tensor([11, 6, 8, 8, 5, 11])
    clean = torch.randint(4, 90, (6, 12), generator=torch.Generator().manual_seed(3))
    clean[torch.arange(12) >= lengths[:, None]] = 1
    corrupted = clean.clone()
    corrupted[:, 3] = (clean[:, 3] + 31) % 80 + 4
    prompts = torch.arange(6)
    return Task("ragged", clean, corrupted, lengths, prompts + 5, prompts + 50, positions={"END": ends})


def own_logits(model: Model, task: Task, run: str = "clean") -> torch.Tensor:
    """Logits [prompt, vocabulary] at END of plain forwards, one prompt at a time, none of it cut."""
    tokens = task.clean_tokens if run == "clean" else task.corrupted_tokens
    with torch.no_grad():
        rows = [
            model(tokens[row : row + 1, : task.lengths[row]])[0, end] for row, end in enumerate(task.positions["END"])
        ]
    return torch.stack(rows)


def own_difference(model: Model, task: Task, run: str = "clean"):
    """Answer logit minus foil logit at END, of plain forwards."""
    logits, rows = own_logits(model, task, run), torch.arange(len(task))
    return (logits[rows, task.answers] - logits[rows, task.foils]).float().numpy()
