"""Left-padded batches give the numbers of their prompts alone."""

import numpy as np
import pytest
import torch

from headlens.analyses.patching import patch_sweep
from headlens.analyses.task import Task
from tiny_models import held
from tiny_tasks import ragged_task


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_is_its_prompts(side):
    plain, longest = ragged_task(), 12
    rows = {"clean": plain.clean_tokens, "corrupted": plain.corrupted_tokens}
    padded = {name: torch.full_like(tokens, 1) for name, tokens in rows.items()}
    mask = torch.zeros(len(plain), longest, dtype=torch.int64)
    starts = [0 if side == "right" else longest - int(length) for length in plain.lengths]
    for prompt, (start, length) in enumerate(zip(starts, plain.lengths.tolist(), strict=True)):
        mask[prompt, start : start + length] = 1
        for name, tokens in rows.items():
            padded[name][prompt, start : start + length] = tokens[prompt, :length]
    s2 = {"S2": torch.tensor(starts) + 3}
    task = Task.from_padded(*padded.values(), mask, plain.answers, plain.foils, positions=s2)
    assert task.positions["S2"].tolist() == [3] * 6 and torch.equal(task.lengths, plain.lengths)
    for name in ("llama", "gpt2"):
        want, got = (patch_sweep(held(name), each, progress=False) for each in (plain, task))
        np.testing.assert_array_equal(got.samples, want.samples)


@pytest.mark.parametrize("mask", [[[1, 0, 1]], [[0, 0, 0]], [[1, 1]]])
def test_a_mask_that_cannot_be_is_refused(mask):
    tokens = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match="attention mask"):
        Task.from_padded(tokens, tokens, torch.tensor(mask), torch.tensor([5]), torch.tensor([6]))
