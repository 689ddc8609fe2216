"""Cases of long causal attention: recalibrated, and its statistics, beside torch's flash attention on the same inputs.

At such lengths no pattern fits, so a few rows in front, in the middle and at the end are held against float64.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from headlens.kernels import reference_grouped, reference_stats
from headlens.kernels.bench import MATMUL, Case, Contest, Result
from headlens.kernels.grouped_attention import grouped_attention
from headlens.kernels.head_stats import row_stats
from headlens.kernels.recalibration import Change, Groups, Recalibrated
from headlens.kernels.row_stats import RowStats
from headlens.kernels.seen import Seen

FLASH = "torch's flash attention"
RENORM, TRANSFER, SCATTERED = "renorm", "transfer", "transfer between scattered keys"
# Rows of a stretch that is computed in float64.
_ROWS = 16
_DTYPE = torch.bfloat16


def grouped(change: str, tokens: int, width: int, device: torch.device, heads: int = 16, alone: bool = False) -> Case:
    """Recalibrated attention with 4 groups: `change` is RENORM, TRANSFER or SCATTERED, the transfer's worst case."""

    def prepare() -> Contest:
        query, key, value = drawn(3, 1, heads, tokens, width, device=device, dtype=_DTYPE)
        groups, how = _groups(tokens, change == SCATTERED, device), _change(change, device)
        call = partial(_recalibrated, query, key, value, groups, how)
        results = partial(_recalibrated_in_float64, call, query, key, value, groups, how)
        return Contest(call, results, None if alone else partial(flash, query, key, value))

    return Case(
        "grouped_attention",
        f"{change} of 4 groups; {tokens} tokens; {heads} heads of {width}",
        _DTYPE,
        prepare,
        peer=None if alone else FLASH,
        target=None if alone else 1.35,
        # each row's products with the keys up to its own, and with their values
        flops=2 * heads * tokens * (tokens + 1) * width,
    )


def statistics(what: frozenset[str], tokens: int, width: int, device: torch.device, heads: int = 16) -> Case:
    """Statistics of rows, by their names in `headlens.kernels.row_stats`; all but those of copied tokens."""

    def prepare() -> Contest:
        query, key, value = drawn(3, 1, heads, tokens, width, device=device, dtype=_DTYPE)
        call = partial(row_stats, query, key, Seen(), width**-0.5, what=what)
        results = partial(_statistics_in_float64, call, query, key, what)
        return Contest(call, results, partial(flash, query, key, value))

    return Case(
        "head_stats",
        f"{' '.join(sorted(what))}; {tokens} tokens; {heads} heads of {width}",
        _DTYPE,
        prepare,
        peer=FLASH,
        target=2.0,
        flops=heads * tokens * (tokens + 1) * width,
    )


def error(tokens: int, width: int, device: torch.device, heads: int = 16) -> Case:
    """How far attention that changes nothing is from float64, all rows together."""

    def prepare() -> Contest:
        query, key, value = drawn(3, 1, heads, tokens, width, device=device, dtype=_DTYPE)
        groups, neutral = _groups(tokens, False, device), Change()
        call = partial(_recalibrated, query, key, value, groups, neutral)
        exact = scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
        peer = partial(flash, query, key, value)

        def results() -> Iterator[Result]:
            yield Result("z", call().z.transpose(1, 2), exact)
            yield Result("the peer's z", peer(), exact)

        return Contest(
            lambda: _relative_error(call().z.transpose(1, 2), exact), results, lambda: _relative_error(peer(), exact)
        )

    of = f"no change of 4 groups; {tokens} tokens; {heads} heads of {width}"
    return Case("error", of, _DTYPE, prepare, unit="error", peer=FLASH, target=1.0)


def matmul(size: int, dtype: torch.dtype, device: torch.device) -> Case:
    """One product of square matrices, torch's: the rate that the machine has."""

    def prepare() -> Contest:
        a, b = drawn(2, size, size, device=device, dtype=dtype)

        def results() -> Iterator[Result]:
            yield Result("the product", (a @ b)[:_ROWS], a[:_ROWS].double() @ b.double())

        return Contest(lambda: a @ b, results)

    return Case(MATMUL, f"{size} by {size}", dtype, prepare, flops=2 * size**3)


def drawn(*shape: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device, dtype=dtype)


def flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention [batch, head, row, d] by torch's flash attention; RuntimeError where it cannot run."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(query, key, value, is_causal=True)


def _recalibrated(query: Tensor, key: Tensor, value: Tensor, groups: Groups, change: Change) -> Recalibrated:
    return grouped_attention(query, key, value, Seen(), query.shape[-1] ** -0.5, groups, change)


def _groups(tokens: int, scattered: bool, device: torch.device) -> Groups:
    """A donor at every 512th key, and else the quarters of the text: bystanders, receivers, group 3, bystanders.

    Scattered, each key is of any group.
    """
    if scattered:
        draw = torch.Generator(device).manual_seed(1)
        index = torch.randint(4, (tokens,), generator=draw, device=device, dtype=torch.uint8)
    else:
        quarter = torch.arange(tokens, device=device) * 4 // tokens
        index = torch.tensor([0, 2, 3, 0], dtype=torch.uint8, device=device)[quarter]
        index[::512] = 1
    return Groups(index[None, None, None], 4)


def _change(change: str, device: torch.device) -> Change:
    if change == RENORM:
        return Change(multipliers=torch.tensor([1.0, 0.5, 2.0, 0.25], device=device)[None, None, None])
    return Change(beta=torch.full((1, 1, 1), 0.4, device=device))


def _stretches(tokens: int) -> list[slice]:
    starts = sorted({0, max(0, tokens // 2 - 3), max(0, tokens - _ROWS)})
    return [slice(start, min(tokens, start + _ROWS)) for start in starts]


def _recalibrated_in_float64(
    call: Callable[[], Recalibrated], query: Tensor, key: Tensor, value: Tensor, groups: Groups, change: Change
) -> Iterator[Result]:
    got = call()
    for part in _stretches(query.shape[2]):
        keys = slice(part.stop)
        exact = reference_grouped.grouped_attention(
            query[:, :, part].double(),
            key[:, :, keys].double(),
            value[:, :, keys].double(),
            Seen(past=part.start),
            query.shape[-1] ** -0.5,
            Groups(groups.index[..., keys], groups.count),
            change,
        )
        yield Result("z", got.z[:, part], exact.z)
        yield Result("masses", got.masses[:, :, part], exact.masses)
        yield Result("lse", got.lse[:, :, part], exact.lse)


def _statistics_in_float64(
    call: Callable[[], RowStats], query: Tensor, key: Tensor, what: frozenset[str]
) -> Iterator[Result]:
    got = call()
    # the key with most attention is not compared, as two may have nearly the same
    fields = {"self": "own", "top": "top_mass"}
    for part in _stretches(query.shape[2]):
        exact = reference_stats.row_stats(
            query[:, :, part].double(),
            key[:, :, : part.stop].double(),
            Seen(past=part.start),
            query.shape[-1] ** -0.5,
            what=what,
        )
        for name in ("lse", *sorted(what)):
            field = fields.get(name, name)
            yield Result(name, getattr(got, field)[:, :, part], getattr(exact, field))


def _relative_error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())
