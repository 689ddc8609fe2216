"""The Triton kernel of recalibrated attention, beside its twin and beside loops over keys in float64."""

import math

import pytest
import torch

from headlens.kernels.recalibration import Change, Groups
from headlens.kernels.reference_grouped import grouped_attention as twin
from headlens.kernels.seen import Seen

pytest.importorskip("triton")
from headlens.kernels import grouped_attention as module
from headlens.kernels.grouped_attention import grouped_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# several tiles along rows and keys at small sizes
TILE = (16, 16, 4)
# of z, against float64: of sums of random products, and of results rounded to the dtype
CLOSE = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """New memory holds what no result may show."""
    real = torch.empty

    def empty(*shape, dtype=None, **more):
        new = real(*shape, dtype=dtype, **more)
        return new.fill_(True) if new.dtype == torch.bool else new.fill_(torch.nan)

    monkeypatch.setattr(module.torch, "empty", empty)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def case(batch=2, heads=4, kv_heads=2, rows=21, keys=37, width=48, wide=None, dtype=torch.float32):
    """A query, a key and a value."""
    query = drawn(batch, heads, rows, width, seed=1, dtype=dtype)
    key, value = (drawn(batch, kv_heads, keys, each, seed=each, dtype=dtype) for each in (width, wide or width))
    return query, key, value


def grouped(count, shape=(2, 1, 1, 37), recent=None):
    draw = torch.Generator().manual_seed(3)
    return Groups(torch.randint(count, shape, generator=draw, dtype=torch.uint8).to(DEVICE), count, recent)


def positive(*shape, seed=5):
    return drawn(*shape, seed=seed).exp()


def shares(*shape, seed=6):
    return drawn(*shape, seed=seed).sigmoid()


SEEN = {
    "causal": Seen(past=16),
    "all": Seen(causal=False),
    "window": Seen(past=16, window=9),
    "ragged in front": Seen(past=16, first=torch.tensor([0, 19], device=DEVICE)),
    "ragged behind": Seen(causal=False, end=torch.tensor([37, 25], device=DEVICE)),
    "window, ragged": Seen(past=16, window=21, first=torch.tensor([5, 20], device=DEVICE)),
    "mask": Seen(past=16, mask=drawn(2, 1, 21, 37, seed=9) > -1),
    "mask of heads, one row empty": Seen(causal=False, mask=drawn(1, 4, 1, 37, seed=9) > 1.5),
}
CHANGES = {
    "none": Change(),
    "renorm": Change(multipliers=positive(1, 4, 1, 4)),
    "renorm of rows": Change(multipliers=positive(2, 1, 21, 4)),
    "raw": Change(kappa=shares(1, 4, 21, 4)),
    "transfer": Change(beta=shares(1, 4, 21)),
    "temperature and gate": Change(tau=positive(1, 4, 21), gamma=drawn(2, 4, 1)),
    "all": Change(
        tau=positive(2, 1, 21),
        multipliers=positive(1, 4, 1, 4),
        beta=shares(2, 4, 21),
        kappa=positive(1, 1, 1, 4),
        gamma=drawn(1, 4, 21),
    ),
}


def assert_close(got, query, key, value, *rest, dtype=torch.float32, **more):
    """Beside the twin in float64 on the same numbers."""
    expected = twin(query.double(), key.double(), value.double(), *rest, **more)
    loud = expected.z.abs().amax().clamp(min=1)
    assert (got.z - expected.z).abs().max() <= CLOSE[dtype] * loud
    torch.testing.assert_close(got.masses.double(), expected.masses, rtol=0, atol=3e-6)
    torch.testing.assert_close(got.lse.double(), expected.lse, rtol=0, atol=1e-5)
    assert torch.equal(got.idle, expected.idle) and torch.equal(got.emptied, expected.emptied)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seen", SEEN)
def test_as_the_twin(seen, change):
    given = (*case(), SEEN[seen], 0.2, grouped(4), CHANGES[change])
    assert_close(grouped_attention(*given, tile=TILE), *given)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("width", [32, 80, 128])
@pytest.mark.parametrize("change", ["renorm of rows", "transfer"])
def test_dtypes_and_head_dims(dtype, width, change):
    given = (*case(width=width, dtype=dtype), SEEN["causal"], width**-0.5, grouped(4), CHANGES[change])
    assert_close(grouped_attention(*given, tile=TILE), *given, dtype=dtype)


@pytest.mark.parametrize("change", ["renorm", "all"])
def test_soft_caps_learned_sinks_and_values_of_another_width(change):
    given = (*case(width=40, wide=64), SEEN["window"], 0.5, grouped(4), CHANGES[change])
    more = {"softcap": 3.0, "sinks": drawn(4, seed=2)}
    assert_close(grouped_attention(*given, tile=TILE, **more), *given, **more)


@pytest.mark.parametrize("change", CHANGES)
def test_learned_sinks_far_from_the_scores(change):
    """Above a row's best score by more than the exponential of a float32 can be, and as far below."""
    given = (*case(), SEEN["window, ragged"], 0.2, grouped(4), CHANGES[change])
    sinks = torch.tensor([200.0, -200.0, 20.0, 2.0], device=DEVICE)
    got = grouped_attention(*given, tile=TILE, sinks=sinks)
    assert_close(got, *given, sinks=sinks)
    assert (got.lse[:, 0] == 200).all() and (got.z[:, :, 0] == 0).all()


@pytest.mark.parametrize("change", ["renorm", "transfer"])
def test_groups_of_each_row_and_recent_keys(change):
    for groups in (grouped(4, (2, 4, 21, 37)), grouped(3, recent=(7, 3 - 1)), grouped(4, (1, 4, 21, 37), (5, 3))):
        part = CHANGES[change]
        if part.multipliers is not None:
            part = Change(multipliers=part.multipliers[..., : groups.count])
        given = (*case(), SEEN["causal"], 0.2, groups, part)
        assert_close(grouped_attention(*given, tile=TILE), *given)


@pytest.mark.parametrize("tile", [None, (16, 32, 4), (32, 16, 4)])
def test_tiles_do_not_matter(tile):
    given = (*case(batch=1, heads=2, kv_heads=1, rows=40, keys=40), Seen(), 0.2, grouped(3, (1, 2, 1, 40)))
    change = Change(beta=shares(1, 2, 40))
    assert_close(grouped_attention(*given, change, tile=tile), *given, change)


def test_one_row_of_a_cached_step():
    given = (*case(rows=1), Seen(past=36, first=torch.tensor([0, 11], device=DEVICE)), 0.2, grouped(3))
    change = Change(beta=torch.full((1, 1, 1), 0.4, device=DEVICE))
    assert_close(grouped_attention(*given, change, tile=TILE), *given, change)


def test_inputs_as_transformers_hands_them_over():
    """Views with heads behind positions, and values whose last axis is not the densest."""
    query, key, value = (each.transpose(1, 2).contiguous().transpose(1, 2) for each in case())
    value = value.transpose(2, 3).contiguous().transpose(2, 3)
    given = (query, key, value, SEEN["causal"], 0.2, grouped(4), CHANGES["all"])
    assert_close(grouped_attention(*given, tile=TILE), *given)


def test_a_transfer_key_by_key():
    query, key, value = case(batch=1, heads=1, kv_heads=1, rows=5, keys=5)
    groups = Groups(torch.tensor([1, 2, 0, 2, 1], dtype=torch.uint8, device=DEVICE)[None, None, None], 3)
    got = grouped_attention(
        query, key, value, Seen(), 0.3, groups, Change(beta=torch.full((1, 1, 1), 0.4, device=DEVICE)), tile=TILE
    )
    for row in range(5):
        powers = [math.exp(0.3 * float(query[0, 0, row].double() @ key[0, 0, at].double())) for at in range(row + 1)]
        share = [power / sum(powers) for power in powers]
        given = sum(0.6 * share[at] for at in (0, 4) if at <= row)
        taking = sum(share[at] for at in (1, 3) if at <= row)
        factor = [0.4, 1, 1, 1, 0.4]
        if taking:
            factor[1] = factor[3] = 1 + given / taking
        else:
            factor = [1] * 5
        z = sum(factor[at] * share[at] * value[0, 0, at].double() for at in range(row + 1))
        torch.testing.assert_close(got.z[0, row, 0].double(), z, rtol=0, atol=1e-6)
        assert bool(got.idle[0, 0, row]) == (row == 0)
        assert math.isclose(float(got.lse[0, 0, row]), math.log(sum(powers)), abs_tol=1e-6)


def test_large_float16_transfers_keep_small_weights():
    """A sink that has nearly all attention, whose receivers have 1e-5 of it: their weights alone are below float16."""
    query, key, value = case(batch=1, heads=1, kv_heads=1, rows=20, keys=20, width=32, dtype=torch.float16)
    key[:, :, 0] = 0
    key[:, :, 0, 0], query[..., 0] = 8, 8
    index = torch.full((1, 1, 1, 20), 2, dtype=torch.uint8, device=DEVICE)
    index[..., 0] = 1
    given = (query, key, value, Seen(), 0.3, Groups(index, 3), Change(beta=torch.zeros(1, 1, 1, device=DEVICE)))
    got = grouped_attention(*given, tile=TILE)
    assert got.masses[0, 0, 5:, 2].max() < 1e-3
    assert_close(got, *given, dtype=torch.float16)


@pytest.mark.parametrize("sinks", [None, drawn(4, seed=2), drawn(4, seed=2) - 200])
def test_rows_that_see_nothing_say_nothing(sinks):
    given = (*case(), Seen(past=16, first=torch.tensor([0, 28], device=DEVICE)), 0.2, grouped(4), CHANGES["all"])
    left = torch.full((4,), -torch.inf, device=DEVICE) if sinks is None else sinks
    for got in (grouped_attention(*given, tile=TILE, sinks=sinks), twin(*given, sinks=sinks)):
        assert (got.z[1, :12] == 0).all() and (got.masses[1, :, :12] == 0).all()
        assert (got.lse[1, :, :12] == left[:, None]).all() and got.z.isfinite().all()


def test_rows_without_any_key_left():
    cut = torch.ones(1, 1, 21, 4, device=DEVICE)
    cut[:, :, 3:5] = 0
    given = (*case(), SEEN["causal"], 0.2, grouped(4), Change(multipliers=cut))
    got = grouped_attention(*given, tile=TILE)
    assert_close(got, *given)
    assert (got.z[:, 3:5] == 0).all() and got.emptied[:, :, 3:5].all() and got.emptied.float().mean() < 0.1


# the interpreter cuts bfloat16 numbers off where a GPU rounds them
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16])
def test_no_further_from_float64_than_torch(dtype):
    query, key, value = case(batch=1, heads=4, kv_heads=4, rows=128, keys=128, width=64, dtype=dtype)
    exact = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), is_causal=True
    )
    torchs = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    ours = grouped_attention(query, key, value, Seen(), 64**-0.5, grouped(4, (1, 1, 1, 128)), Change()).z
    off = (torchs - exact).abs().mean(), (ours.transpose(1, 2) - exact).abs().mean()
    assert off[1] <= 1.5 * off[0]
