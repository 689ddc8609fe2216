"""The Triton kernel of attention with shared prefixes, beside its twin and beside single rows in float64."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from headlens.kernels.reference import shared_prefix_attention as twin

pytest.importorskip("triton")
from headlens.kernels import shared_prefix_attention as module
from headlens.kernels.shared_prefix_attention import shared_prefix_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALING = 0.3
# several tiles of rows and keys at small sizes
TILE = (16, 32, 4)
SIZES = {
    "no prefix": {"prefix": 0, "suffix": 3},
    "one token": {"prefix": 1, "suffix": 1, "cells": 9},
    "less than a tile": {"prefix": 9, "suffix": 5},
    "whole tiles": {"prefix": 128, "suffix": 1},
    "tiles and a rest": {"prefix": 167, "suffix": 7},
    "many cells of few rows": {"cells": 41, "prefix": 35, "suffix": 1, "prompts": 1},
    "few cells of many rows": {"cells": 2, "prefix": 5, "suffix": 71, "prompts": 1, "heads": 2, "kv_heads": 1},
    "one cell": {"cells": 1, "prefix": 66, "suffix": 32},
}


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """New memory holds what no result may show."""
    real = torch.empty

    def empty(*shape, **more):
        new = real(*shape, **more)
        return new.fill_(torch.nan if new.is_floating_point() else 0x5A5A5A5A)

    monkeypatch.setattr(torch, "empty", empty)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def causal(prefix, suffix):
    return torch.ones(prefix + suffix, prefix + suffix, dtype=torch.bool, device=DEVICE).tril()[None, None, prefix:]


def case(
    cells=5, prompts=2, heads=4, kv_heads=2, prefix=37, suffix=5, width=24, wide=None, dtype=torch.float32, allowed=None
):
    """Laid out as in the engine: heads behind positions, and the prefix as the start of a longer run's."""
    of_suffix = [
        drawn(cells, prompts, suffix, n, each, seed=seed, dtype=dtype).transpose(2, 3)
        for seed, n, each in ((1, heads, width), (2, kv_heads, width), (3, kv_heads, wide or width))
    ]
    of_prefix = [
        drawn(prompts, prefix + suffix, kv_heads, each, seed=seed, dtype=dtype).transpose(1, 2)[:, :, :prefix]
        for seed, each in ((4, width), (5, wide or width))
    ]
    return (*of_suffix, *of_prefix, causal(prefix, suffix) if allowed is None else allowed)


def exact(query, key, value, prefix_key, prefix_value, allowed):
    """Row by row, over just the keys that a row sees."""
    cells, prompts, heads, queries, _ = query.shape
    group = heads // key.shape[2]
    z = torch.zeros(cells, prompts, queries, heads, value.shape[-1], dtype=torch.float64, device=query.device)
    for cell, prompt, head in torch.cartesian_prod(*map(torch.arange, (cells, prompts, heads))).tolist():
        own = prompt, head // group
        keys = torch.cat([prefix_key[own], key[cell][own]]).double()
        values = torch.cat([prefix_value[own], value[cell][own]]).double()
        scores = SCALING * query[cell, prompt, head].double() @ keys.T
        for row in range(queries):
            seen = allowed[min(prompt, len(allowed) - 1), 0, row]
            z[cell, prompt, row, head] = scores[row, seen].softmax(0) @ values[seen]
    return z


def assert_exact(got, given, tolerance=2e-6):
    want = exact(*given)
    assert got.shape == want.shape and got.dtype == given[2].dtype
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tile", [None, TILE], ids=["own tiles", "small tiles"])
@pytest.mark.parametrize("size", SIZES)
def test_as_the_twin_and_in_float64(size, tile):
    given = case(**SIZES[size])
    got = shared_prefix_attention(*given, SCALING, tile=tile)
    torch.testing.assert_close(got, twin(*given, SCALING), rtol=0, atol=3e-6)
    assert_exact(got, given)


@pytest.mark.parametrize("tile", [(16, 64, 4), (32, 32, 4), (64, 64, 4)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2), (4, 1)])
def test_query_heads_in_groups_of_one_three_and_four(heads, kv_heads, tile):
    given = case(cells=7, heads=heads, kv_heads=kv_heads, prefix=70, suffix=3)
    assert_exact(shared_prefix_attention(*given, SCALING, tile=tile), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [32, 64, 80, 128])
def test_no_further_from_float64_than_torchs_attention_on_copies(width, dtype):
    given = case(cells=3, prompts=1, heads=2, kv_heads=1, prefix=45, suffix=6, width=width, dtype=dtype)
    query, key, value, prefix_key, prefix_value, allowed = given
    copies = [
        torch.cat([own.expand(len(new), *own.shape), new], 3).flatten(0, 1).repeat_interleave(2, 1)
        for own, new in ((prefix_key, key), (prefix_value, value))
    ]
    torchs = functional.scaled_dot_product_attention(query.flatten(0, 1), *copies, attn_mask=allowed, scale=SCALING)
    torchs, want = torchs.transpose(1, 2).unflatten(0, query.shape[:2]), exact(*given)
    # Triton's interpreter cuts bfloat16 numbers off where a GPU rounds them
    factor = 4 if dtype == torch.bfloat16 and DEVICE == "cpu" else 2
    for tile in (None, TILE):
        got = shared_prefix_attention(*given, SCALING, tile=tile)
        assert got.dtype == dtype
        assert (got.double() - want).abs().max() <= factor * (torchs.double() - want).abs().max()


def masks():
    """Prefixes of 100 tokens and suffixes of 4, of two prompts."""
    rows, keys = torch.arange(100, 104)[:, None], torch.arange(104)
    seen = keys <= rows
    padded = torch.stack([seen & (keys >= 71), seen])
    gaps = seen & (torch.rand(2, 4, 104, generator=torch.Generator().manual_seed(0)) < 0.6) | (keys == rows)
    return {
        "padding in front": padded,
        "a window": (seen & (rows - keys < 9))[None],
        "a window within the suffix": (seen & (rows - keys < 2))[None],
        "a window and padding": padded & (rows - keys < 60),
        "gaps": gaps,
        "gaps of one prompt for all": gaps[:1],
        "later tokens too": torch.ones(1, 4, 104, dtype=torch.bool),
    }


@pytest.mark.parametrize("tile", [None, TILE, (16, 64, 4)])
@pytest.mark.parametrize("name", masks())
def test_any_mask(name, tile):
    given = case(prefix=100, suffix=4, allowed=masks()[name][:, None].to(DEVICE))
    assert_exact(shared_prefix_attention(*given, SCALING, tile=tile), given)


def test_fewer_queries_than_suffix_positions():
    query, *given, allowed = case(prefix=50, suffix=6)
    given = (query[:, :, :, -2:], *given, allowed[:, :, -2:])
    assert_exact(shared_prefix_attention(*given, SCALING, tile=TILE), given)


def test_a_row_that_sees_no_key_is_0():
    allowed = causal(40, 3).clone()
    allowed[0, 0, 1] = False
    given = case(prefix=40, suffix=3, allowed=allowed)
    got = shared_prefix_attention(*given, SCALING, tile=TILE)
    assert (got[:, :, 1] == 0).all()
    query, *others, _ = given
    rest = (query[:, :, :, [0, 2]], *others, allowed[:, :, [0, 2]])
    assert_exact(got[:, :, [0, 2]], rest)


def test_hidden_keys_are_never_read():
    allowed = causal(70, 2).clone()
    allowed[..., :33] = False
    allowed[..., 0, 70] = False
    query, key, value, prefix_key, prefix_value, _ = case(prefix=70, suffix=2)
    got = shared_prefix_attention(query, key, value, prefix_key, prefix_value, allowed, SCALING, tile=TILE)
    prefix_key[:, :, :33], key[:, :, :, 0] = 1e9, key[:, :, :, 0] * 1e9
    again = shared_prefix_attention(query, key, value, prefix_key, prefix_value, allowed, SCALING, tile=TILE)
    assert torch.equal(got[:, :, 0], again[:, :, 0]) and not torch.equal(got[:, :, 1], again[:, :, 1])


@pytest.mark.parametrize("cell", [0, 3, 6])
def test_a_cell_never_sees_another_cells_suffix(cell):
    query, key, value, *shared = case(cells=7, prompts=1, suffix=3)
    got = shared_prefix_attention(query, key, value, *shared, SCALING, tile=TILE)
    key[cell], value[cell] = 5.0, 100.0
    again = shared_prefix_attention(query, key, value, *shared, SCALING, tile=TILE)
    others = [other for other in range(7) if other != cell]
    assert torch.equal(got[others], again[others])
    assert (got[cell] != again[cell]).all()


@pytest.mark.parametrize("wide", [16, 48])
def test_values_of_another_width_than_keys(wide):
    given = case(wide=wide)
    assert_exact(shared_prefix_attention(*given, SCALING, tile=TILE), given)


def test_tensors_whose_last_axis_is_not_the_densest():
    *given, allowed = case()
    turned = [each.transpose(-1, -2).contiguous().transpose(-1, -2) for each in given]
    assert_exact(shared_prefix_attention(*turned, allowed, SCALING, tile=TILE), (*given, allowed))


def test_scores_of_any_size_are_finite():
    """Without the running maximum the weights of such scores would be infinite, or all 0."""
    query, *given = case(prefix=70)
    for factor in (60.0, -60.0):
        large = (query * factor, *given)
        assert_exact(shared_prefix_attention(*large, SCALING, tile=TILE), large, 2e-4)


class _Sizes(TorchDispatchMode):
    """The sizes of the memory that operations of torch take."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        known = {each.untyped_storage().data_ptr() for each in args if isinstance(each, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in known:
            self.made.append(out.untyped_storage().nbytes())
        return out


def test_no_copy_of_the_prefix_is_made(monkeypatch):
    """Not counting Triton's interpreter, which copies what it is given."""
    launches = []

    class Launch:
        def __getitem__(self, grid):
            return lambda *args, **options: launches.append(args)

    monkeypatch.setattr(module, "_shared_prefix_attention", Launch())
    words = module.mask_words(causal(300, 2)[:, 0], 300)
    monkeypatch.setattr(module, "mask_words", lambda mask, in_front: words)
    given = case(cells=3, prompts=1, prefix=300, suffix=2)
    with _Sizes() as sizes:
        z = shared_prefix_attention(*given, SCALING)
    assert len(launches) == 1 and sizes.made == [z.nbytes]
    assert given[3] is launches[0][3] and z.nbytes < given[3][0, 0].nbytes
