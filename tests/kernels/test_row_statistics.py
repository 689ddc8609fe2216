"""Each statistic against numbers written out one row at a time, and against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import entr

from headlens.kernels import row_statistics as stats

SHAPE = (2, 3, 5, 7)
QUERIES, KEYS = torch.arange(6, 11), torch.arange(4, 11)


def rows(seed=0, shape=SHAPE, dtype=torch.float32):
    """Causal rows, sharp and flat ones, with hidden keys at exactly 0."""
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    return scores.masked_fill(KEYS > QUERIES[:, None], -torch.inf).softmax(-1).to(dtype)


def close(found, want, tolerance=1e-6):
    torch.testing.assert_close(found.double(), torch.as_tensor(np.asarray(want)).double(), rtol=0, atol=tolerance)


def test_entropy_is_scipys():
    pattern = rows()
    close(stats.entropy(pattern), entr(pattern.double().numpy()).sum(-1))


def test_entropy_of_a_certain_and_of_an_even_row():
    pattern = torch.tensor([[[[0.0, 1.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0]]]])
    close(stats.entropy(pattern), [[[0.0, math.log(4), math.log(2)]]])


def test_entropy_leaves_its_rows_as_they_were():
    pattern = rows()
    before = pattern.clone()
    stats.entropy(pattern)
    assert torch.equal(pattern, before)


def test_attention_to_one_key_of_each_row():
    pattern, columns = rows(), torch.tensor([[0, 3, -1, 7, 2], [6, 1, 1, 0, 5]])
    found = stats.attention_to(pattern, columns)
    for prompt, head, row in np.ndindex(SHAPE[:3]):
        column = int(columns[prompt, row])
        want = float(pattern[prompt, head, row, column]) if 0 <= column < 7 else 0.0
        assert float(found[prompt, head, row]) == want


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 5)])
def test_one_column_serves_all_rows_or_prompts(shape):
    columns = torch.full(shape, 2)
    assert torch.equal(stats.attention_to(rows(), columns), rows()[..., 2])


def test_mass_adds_up_what_the_chosen_keys_have():
    pattern = rows()
    which = torch.rand(2, 1, 1, 7, generator=torch.Generator().manual_seed(3)) < 0.5
    close(stats.mass(pattern, which), np.where(which.numpy(), pattern.double().numpy(), 0).sum(-1))


def test_distance_is_in_tokens_on_either_side_and_of_what_is_attended():
    pattern = torch.tensor([[[[0.5, 0.0, 0.0, 0.5], [0.0, 0.1, 0.0, 0.0]]]])
    found = stats.distance(pattern, torch.tensor([11, 12]), torch.tensor([10, 11, 12, 13]))
    close(found, [[[1.5, 1.0]]])


def test_distances_of_far_keys_lose_no_digits():
    pattern = rows()
    far = stats.distance(pattern, QUERIES + 100_000, KEYS + 100_000)
    close(far, stats.distance(pattern, QUERIES, KEYS), 0)


def test_copies_stand_before_their_row():
    tokens = torch.tensor([[5, 7, 5, 5, 7]])
    at = torch.arange(5)
    found = stats.earlier_copies(tokens, tokens, at, at)[0, 0]
    assert {tuple(pair) for pair in found.nonzero().tolist()} == {(2, 0), (3, 0), (3, 2), (4, 1)}


def test_what_each_key_receives_from_the_rows_that_count():
    pattern = rows()
    count = torch.tensor([[True, False, True, True, False], [False, True, False, False, True]])
    want = np.einsum("bhrk,br->bhk", pattern.double().numpy(), count.double().numpy())
    close(stats.received(pattern, count), want)


def test_the_top_key_and_its_share():
    pattern = rows()
    at, most = stats.top_key(pattern)
    assert np.array_equal(at.numpy(), pattern.numpy().argmax(-1))
    assert np.array_equal(most.numpy(), pattern.numpy().max(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_is_scipys(dtype):
    one, other = rows(1, dtype=dtype), rows(2, dtype=dtype)
    want = jensenshannon(one.double().numpy(), other.double().numpy(), axis=-1) ** 2
    close(stats.divergence(one, other), want, 1e-6 if dtype == torch.float32 else 1e-12)
    assert torch.equal(stats.divergence(one, other), stats.divergence(other, one))


def test_divergence_of_equal_and_of_disjoint_rows():
    one = torch.tensor([[[[1.0, 0.0, 0.0], [0.3, 0.7, 0.0]]]])
    other = torch.tensor([[[[0.0, 0.5, 0.5], [0.3, 0.7, 0.0]]]])
    close(stats.divergence(one, other), [[[math.log(2), 0.0]]])


def test_divergence_of_nearly_equal_rows_keeps_its_digits():
    even = torch.full((1, 1, 1, 1000), 1e-3)
    nudged = even * (1 + 1e-3 * torch.tensor([1.0, -1.0]).repeat(500))
    want = jensenshannon(even.double().numpy(), nudged.double().numpy(), axis=-1) ** 2
    torch.testing.assert_close(stats.divergence(even, nudged).double(), torch.from_numpy(want), rtol=0.05, atol=0)
