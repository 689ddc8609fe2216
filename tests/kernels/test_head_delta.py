"""The Triton kernel of patched attention outputs, beside its twin and beside loops over cells and heads in float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headlens.kernels.reference_delta import patched_outputs as twin

pytest.importorskip("triton")
from headlens.kernels import head_delta as module
from headlens.kernels.head_delta import patched_outputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# several tiles along rows, columns and widths at small sizes
TILE = (16, 16, 16, 4)
# against float64: of sums of products, and of results rounded to the dtype
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# one head, all of them, two of one cell the wrong way round
CELLS = torch.tensor([[1, -1, -1], [0, 1, 2], [2, 0, -1], [2, -1, -1]])


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """New memory holds what no result may show."""
    real = torch.empty
    monkeypatch.setattr(module.torch, "empty", lambda *shape, **more: real(*shape, **more).fill_(torch.nan))


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def case(prompts=3, suffix=7, reach=5, heads=3, width=24, columns=37, dtype=torch.float32):
    """An attention's outputs, the heads' patched and plain `z`, and their part of the output projection."""
    attended = drawn(prompts, suffix, columns, dtype=dtype)
    source, base = (drawn(prompts, reach, heads, width, seed=seed, dtype=dtype) for seed in (1, 2))
    return attended, source, base, drawn(heads, width, columns, seed=3, dtype=dtype) / width**0.5


def exact(attended, source, base, weights, cells):
    """Cell by cell and head by head."""
    out = attended.double().repeat(len(cells), 1, 1, 1)
    for cell, heads in enumerate(cells.tolist()):
        for head in heads:
            if head >= 0:
                difference = source[:, :, head].double() - base[:, :, head].double()
                out[cell, :, : source.shape[1]] += difference @ weights[head].double()
    return out


def assert_close(got, *given):
    expected = exact(*given)
    assert got.dtype == given[0].dtype and got.shape == expected.shape
    assert (got.double() - expected).abs().max() <= CLOSE[got.dtype] * expected.abs().max()


@pytest.mark.parametrize("tile", [None, TILE, (16, 32, 64, 4), (32, 16, 32, 4)])
def test_as_the_twin_whatever_the_tiles(tile):
    given = (*case(), CELLS)
    got = patched_outputs(*given, tile=tile)
    torch.testing.assert_close(got, twin(*given), rtol=0, atol=2e-5)
    assert_close(got, *given)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("width", [32, 64, 80])
def test_dtypes_and_head_dims(dtype, width):
    given = (*case(prompts=2, suffix=11, reach=10, width=width, dtype=dtype), CELLS)
    assert_close(patched_outputs(*given, tile=TILE), *given)
    assert_close(patched_outputs(*given), *given)


@pytest.mark.parametrize(("prompts", "suffix", "reach"), [(1, 1, 1), (2, 40, 1), (2, 9, 9), (1, 17, 16)])
def test_behind_the_last_patched_row_nothing_is_added(prompts, suffix, reach):
    given = (*case(prompts=prompts, suffix=suffix, reach=reach), CELLS)
    got = patched_outputs(*given, tile=TILE)
    assert_close(got, *given)
    assert (got[:, :, reach:] == given[0][:, reach:]).all()
    assert (got[:, :, :reach] != given[0][:, :reach]).any((1, 2, 3)).all()


def test_inputs_as_the_engine_hands_them_over():
    """Rows of longer tensors, and weights of a linear layer, whose densest axis is the heads' width."""
    attended, source, base, weights = case(suffix=7, reach=7)
    attended = torch.cat([drawn(3, 2, 37, seed=8), attended], 1)[:, 2:]
    linear = weights.flatten(0, 1).T.contiguous().T.unflatten(0, (3, -1))
    assert linear.stride(1) == 1
    turned = base.transpose(1, 2).contiguous().transpose(1, 2)
    got = patched_outputs(attended, source[:, :4], turned[:, :4], linear, CELLS, tile=TILE)
    assert_close(got, attended, source[:, :4], base[:, :4], weights, CELLS)


def test_values_whose_densest_axis_is_another():
    attended, source, base, weights = case(suffix=5)
    turned = [each.transpose(-1, -2).contiguous().transpose(-1, -2) for each in (attended, source, base)]
    assert_close(patched_outputs(*turned, weights, CELLS, tile=TILE), attended, source, base, weights, CELLS)


def test_heads_that_no_cell_names_are_not_read():
    attended, source, base, weights = case()
    source[:, :, 1], weights[1] = torch.nan, torch.nan
    cells = torch.tensor([[2, -1], [0, 2], [-1, -1]])
    got = patched_outputs(attended, source, base, weights, cells, tile=TILE)
    assert_close(got, attended, source, base, weights, cells)
    assert torch.equal(got[2], attended)


def test_small_differences_of_large_values_are_kept():
    """The difference is taken before any product: what is alike cancels exactly."""
    attended, source, base, weights = case(reach=7)
    source, base = base * 1e5 + source, base * 1e5
    source[1] = base[1]
    got = patched_outputs(attended, source, base, weights, CELLS, tile=TILE)
    assert (got[:, 1] == attended[1]).all()
    assert_close(got, attended, source, base, weights, CELLS)


def test_float16_differences_beyond_its_range_when_summed():
    """Two heads that cancel: their sum is in float32, where neither overflows."""
    attended, source, base, weights = case(heads=2, dtype=torch.float16)
    source[:], base[:], weights[:] = 200.0, 0.0, 20.0
    weights[1] = -20.0
    got = patched_outputs(attended, source, base, weights, torch.tensor([[0, 1]]), tile=TILE)
    assert torch.equal(got[0], attended)


class _Sizes(TorchDispatchMode):
    """The sizes of what each operation of torch returns."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen += [out.numel()] if isinstance(out, torch.Tensor) else []
        return out


def test_nothing_larger_than_the_result_is_made(monkeypatch):
    """Not counting Triton's interpreter, which copies what it is given."""
    launches = []
    monkeypatch.setattr(module, "_patched_outputs", {(4,): lambda *_, **__: launches.append(1)})
    given = (*case(prompts=1, suffix=3, reach=3, heads=3, width=80, columns=20), CELLS)
    with _Sizes() as sizes:
        patched_outputs(*given)
    # no gathered weights or `z`
    assert launches == [1] and max(sizes.seen) == 4 * 3 * 20
