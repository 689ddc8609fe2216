"""Metrics that read other positions than the last, or in ways that are hard to see."""

import warnings

import numpy as np
import pytest
import torch

from headlens.compat.read_positions import Logits, Reached
from peer_runs import LENGTH, both, first_tokens, moved, same


def wandering(logits):
    """Reads another position when the last one says something else: nothing that one look could tell."""
    where = int(logits[0, -1].argmax()) % LENGTH
    return logits[:, where, 7].mean()


def in_place(logits):
    """What it leaves behind must not reach the next cell."""
    logits[:, -1:].mul_(2)
    logits[:, 3].add_(1)
    return logits[:, 3:, 5].sum()


def written(logits):
    logits[:, 0] = 0
    return logits[:, :, 5].sum()


def _exponential(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 2].exp().mean()


with warnings.catch_warnings():
    # deprecated, but notebooks have it, and it reads tensors without asking Python
    warnings.simplefilter("ignore", DeprecationWarning)
    scripted = torch.jit.script(_exponential)


def forgiving(logits):
    try:
        return logits.mean() * 3
    except Exception:  # noqa: BLE001 as careless as a notebook may be
        return logits[:, -1].mean()


def choosy(logits):
    if type(logits) is not torch.Tensor:
        raise TypeError("a plain tensor, please")
    return logits[:, 3].std()


ODD = {
    "all": lambda logits: first_tokens(logits).mean(),
    "span": lambda logits: logits[:, 1:4, 5].mean() + logits[:, -1, 3].mean(),
    "each its own": lambda logits: logits[range(2), [4, 3], torch.tensor([5, 9])].sum(),
    "wandering": wandering,
    "in place": in_place,
    "written": written,
    "scripted": scripted,
    "half scripted": lambda logits: scripted(logits) + logits[:, -1, 3].mean(),
    "choosy": choosy,
    "numpy": lambda logits: torch.tensor(logits.numpy()[:, 3].max()),
    "one number": lambda logits: float(logits[0, -1, 5]),
    "forgiving": forgiving,
}


@pytest.mark.parametrize("which", ODD)
def test_what_a_metric_reads_is_right(which, whole_forwards):
    got, want = both("get_act_patch_attn_head_out_by_pos", "llama", ODD[which])
    same(got, want)
    assert moved("llama", want, ODD[which]) > 5 and len(whole_forwards) == 3


BASE = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))
FULL = torch.cat([BASE[:, :4], BASE[:, 4:] + 1], 1)
READS = {
    "end": (lambda x: x[:, -1], 7),
    "dots": (lambda x: x[..., -1, :], 7),
    "gathered": (lambda x: x[range(3), [7, 6, 7], [1, 2, 3]], 6),
    "arrays": (lambda x: x[np.arange(3), np.array([7, -3, 6])], 5),
    "a numpy number": (lambda x: x[:, np.int64(-1)], 7),
    "a tensor of one": (lambda x: x[:, torch.tensor(-2)], 6),
    "a span": (lambda x: x[1, -3:-1], 5),
    "every other": (lambda x: x[:, 5::2, 1:3], 5),
    "a mask of prompts": (lambda x: x[torch.tensor([True, False, True]), -1], 4),
    "a mask of positions": (lambda x: x[:, torch.arange(8) > 6], 4),
    "a new axis": (lambda x: x[:, None, -1], 4),
    "a prompt": (lambda x: x[0], 4),
    "before the start": (lambda x: x[:, [-1, 2]], 4),
    "all": (lambda x: x.softmax(-1)[:, -1], 4),
    "a copy": (lambda x: torch.tensor(x.tolist()), 4),
    "an iteration": (lambda x: torch.stack([*x]), 4),
    "sizes": (lambda x: torch.tensor([*x.shape, x.size(1), len(x), x.ndim, x.numel()]), 7),
}


@pytest.mark.parametrize("which", READS)
def test_no_more_positions_than_are_read(which):
    """Logits of 8 positions that may differ from the base run's from 4 on, of which the last is computed at first."""
    read, earliest = READS[which]
    first = 7
    while True:
        try:
            got = read(Logits(BASE, FULL[:, first:].clone(), start=4))
            break
        except Reached as reached:
            assert reached.first < first
            first = reached.first
    assert first == earliest and type(got) is torch.Tensor
    assert torch.equal(got, read(FULL.clone()))


def test_a_position_that_is_not_there_is_an_index_error():
    with pytest.raises(IndexError):
        Logits(BASE, FULL[:, 4:], start=4)[:, 8]
