"""Queries, keys and what their rows see, for the kernels of head statistics; and their numbers beside the twin's."""

from dataclasses import fields

import pytest
import torch

from headlens.kernels import reference_stats as twin
from headlens.kernels.row_stats import NAMES
from headlens.kernels.seen import Seen

pytest.importorskip("triton")
from headlens.kernels.head_stats import row_stats
from headlens.kernels.received_attention import received
from headlens.kernels.rows_divergence import divergence

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# several tiles along rows and keys at small sizes
TILE = (16, 16)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def whole(most, *shape, seed=0, dtype=torch.int64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(most, shape, generator=draw, dtype=dtype).to(DEVICE)


def case(batch=2, heads=4, kv_heads=2, rows=21, keys=37, width=48, dtype=torch.float32, seed=1):
    """A query and a key."""
    query = drawn(batch, heads, rows, width, seed=seed, dtype=dtype)
    return query, drawn(batch, kv_heads, keys, width, seed=seed + 100, dtype=dtype)


def asked(batch=2, rows=21, keys=37, in_front=16, groups=None, n_groups=3):
    """Everything there is to ask for; rows are the tokens from `in_front` on."""
    tokens = whole(5, batch, in_front + rows, seed=2)
    groups = whole(2**n_groups, batch, 1, keys, seed=3, dtype=torch.uint8) if groups is None else groups
    return {
        "what": NAMES,
        "row_tokens": tokens[:, in_front:],
        "key_tokens": tokens[:, :keys],
        "groups": groups,
        "n_groups": n_groups,
    }


SEEN = {
    "causal": Seen(past=16),
    "all": Seen(causal=False, past=8),
    "window": Seen(past=16, window=9),
    "ragged in front": Seen(past=16, first=torch.tensor([0, 19], device=DEVICE)),
    "ragged behind": Seen(causal=False, past=4, end=torch.tensor([37, 25], device=DEVICE)),
    "window, ragged": Seen(past=16, window=18, first=torch.tensor([0, 20], device=DEVICE)),
    "mask": Seen(past=16, mask=drawn(2, 1, 21, 37, seed=9) > -1),
    "mask of heads, one row empty": Seen(causal=False, mask=drawn(1, 4, 1, 37, seed=9) > 1.5),
}


def assert_close(got, expected):
    """Every number of rows, against float64."""
    for field in fields(got):
        one, other = getattr(got, field.name), getattr(expected, field.name)
        assert (one is None) == (other is None), field.name
        if one is None:
            continue
        if other.is_floating_point():
            assert one.dtype == torch.float32
            accuracy = {"lse": 1e-5, "entropy": 1e-5, "distance": 3e-5}.get(field.name, 3e-6)
            assert torch.allclose(one.double(), other, rtol=0, atol=accuracy), field.name
        else:
            assert torch.equal(one, other), field.name


def assert_as_the_twin(query, key, seen, scaling, tile=TILE, **more):
    got = row_stats(query, key, seen, scaling, tile=tile, **more)
    assert_close(got, twin.row_stats(query.double(), key.double(), seen, scaling, **more))
    return got


def lse_of(query, key, seen, scaling, **more):
    return twin.row_stats(query.double(), key.double(), seen, scaling, **more).lse


def assert_received(query, key, seen, scaling, counted=None, tile=TILE, softcap=None, sinks=None):
    counted = drawn(len(query), query.shape[2], seed=8) > -1 if counted is None else counted
    lse = lse_of(query, key, seen, scaling, softcap=softcap, sinks=sinks)
    got = received(query, key, seen, scaling, lse.float(), counted, softcap=softcap, tile=tile)
    expected = twin.received(query.double(), key.double(), seen, scaling, lse, counted, softcap=softcap)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)


def assert_apart(query, key, other_query, other_key, seen, scaling, tile=TILE, softcap=None, sinks=None):
    lse = lse_of(query, key, seen, scaling, softcap=softcap, sinks=sinks)
    other_lse = lse_of(other_query, other_key, seen, scaling, softcap=softcap, sinks=sinks)
    given = (query, key, lse.float(), other_query, other_key, other_lse.float(), seen, scaling)
    got = divergence(*given, softcap=softcap, tile=tile)
    exact = (query.double(), key.double(), lse, other_query.double(), other_key.double(), other_lse, seen, scaling)
    torch.testing.assert_close(got.double(), twin.divergence(*exact, softcap=softcap), rtol=0, atol=3e-6)
