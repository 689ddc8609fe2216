"""The two rules about the heads of a layer, against a plain reading of the paper."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.divergence.head_outliers import above_median, outlying


def test_an_outlier_surges_in_both():
    draw = np.random.default_rng(5)
    moved, loud = draw.gamma(1.5, 1.0, (2, 40, 3, 7)).astype(np.float32)
    wanted = np.zeros(moved.shape, bool)
    for row in np.ndindex(moved.shape[:-1]):
        for head in range(7):
            wanted[(*row, head)] = all(
                values[row][head] > np.mean(values[row]) + np.sqrt(np.mean((values[row] - np.mean(values[row])) ** 2))
                for values in (moved, loud)
            )
    assert 0 < wanted.sum() < (moved > moved.mean(-1, keepdims=True) + moved.std(-1, keepdims=True)).sum()
    assert np.array_equal(outlying(torch.from_numpy(moved), torch.from_numpy(loud)).numpy(), wanted)


@pytest.mark.parametrize("n_heads", [2, 4, 9, 12])
def test_half_of_the_heads_are_above_the_median(n_heads):
    moved = torch.rand(5, 3, n_heads, generator=torch.Generator().manual_seed(1))
    chosen = above_median(moved)
    assert (chosen.sum(-1) == n_heads // 2).all()
    assert (moved.masked_fill(~chosen, 9).amin(-1) > moved.masked_fill(chosen, -1).amax(-1)).all()


def test_equal_heads_are_neither():
    same = torch.full((2, 4), 1.5)
    assert not above_median(same).any() and not outlying(same, same).any()
