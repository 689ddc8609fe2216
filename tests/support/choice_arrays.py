"""Choice tasks of random tokens for the tiny models: ragged prompts, ragged choices."""

import torch

from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.tokens import pad_rows


def ragged_choices() -> ChoiceTask:
    """Seven prompts of three lengths, out of order, with two, three or four choices."""
    lengths = torch.tensor([12, 7, 12, 9, 7, 12, 5])
    tokens = torch.randint(4, 90, (7, 12), generator=torch.Generator().manual_seed(8))
    tokens[torch.arange(12) >= lengths[:, None]] = 1
    choices = [[5, 6], [7, 8, 9, 10], [11, 5, 60], [70, 3], [6, 5, 8], [90, 91, 4, 17], [20, 30]]
    return ChoiceTask("ragged", tokens, lengths, pad_rows(choices, -1), torch.tensor([1, 3, 0, 0, 2, 1, 1]))
