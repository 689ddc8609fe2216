"""Cases of the sweep's kernels: variants that share their prompts' prefixes, and outputs with patched heads."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from headlens.kernels import reference, reference_delta
from headlens.kernels.bench import Case, Contest, Result
from headlens.kernels.bench_attention import drawn
from headlens.kernels.head_delta import patched_outputs
from headlens.kernels.shared_prefix_attention import shared_prefix_attention

# What the kernel of shared prefixes takes before `scaling`.
Variants = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
# Variants whose definition is computed at once.
_CELLS = 16


class Shape(NamedTuple):
    """A model's attention."""

    name: str
    heads: int
    kv_heads: int
    width: int
    d_model: int


class Sizes(NamedTuple):
    """How many variants of how many prompts, and tokens of each prompt that they share and do not share."""

    cells: int = 256
    prompts: int = 8
    prefix: int = 200
    suffix: int = 8


SMOLLM2 = Shape("SmolLM2-135M", 9, 3, 64, 576)
LLAMA_8B = Shape("Llama-3-8B", 32, 8, 128, 4096)
FULL = Sizes()


def shared_prefix(shape: Shape, dtype: torch.dtype, device: torch.device, sizes: Sizes = FULL) -> Case:
    """Time beside torch's attention on keys that were copied for each variant before; the copying is not timed."""

    def prepare() -> Contest:
        given, scaling = _variants(shape, dtype, device, sizes), shape.width**-0.5
        copied = _copied(given)

        def results() -> Iterator[Result]:
            z, peers = shared_prefix_attention(*given, scaling), _attended(*copied)
            peers = peers.unflatten(0, (sizes.cells, sizes.prompts)).transpose(2, 3)
            query, key, value, prefix_key, prefix_value, allowed = given
            prefixes = prefix_key.double(), prefix_value.double()
            for start in range(0, sizes.cells, _CELLS):
                some = slice(start, start + _CELLS)
                own = query[some].double(), key[some].double(), value[some].double()
                exact = reference.shared_prefix_attention(*own, *prefixes, allowed, scaling)
                yield Result("z", z[some], exact)
                yield Result("the peer's z", peers[some], exact)

        return Contest(lambda: shared_prefix_attention(*given, scaling), results, lambda: _attended(*copied))

    return _of_variants("ms", 1 / 3, shape, dtype, sizes, prepare)


def shared_prefix_memory(shape: Shape, dtype: torch.dtype, device: torch.device, sizes: Sizes = FULL) -> Case:
    """Memory beside that: inputs, copies and results together."""

    def ours() -> Tensor:
        return shared_prefix_attention(*_variants(shape, dtype, device, sizes), shape.width**-0.5)

    def peers() -> Tensor:
        return _attended(*_copied(_variants(shape, dtype, device, sizes)))

    def results() -> Iterable[Result]:
        return shared_prefix(shape, dtype, device, sizes).prepare().results()

    return _of_variants("GiB", None, shape, dtype, sizes, lambda: Contest(ours, results, peers))


def head_delta(shape: Shape, dtype: torch.dtype, device: torch.device, prompts: int, suffix: int = 8) -> Case:
    """One patched head in each cell, all heads of a layer, beside plain torch."""

    def prepare() -> Contest:
        source, base = drawn(2, prompts, suffix, shape.heads, shape.width, device=device, dtype=dtype)
        attended = drawn(prompts, suffix, shape.d_model, device=device, dtype=dtype, seed=1)
        # laid out as a linear layer's weights
        linear = drawn(shape.d_model, shape.heads * shape.width, device=device, dtype=dtype, seed=2)
        weights = (linear / shape.width**0.5).T.unflatten(0, (shape.heads, shape.width))
        given, cells = (attended, source, base, weights), torch.arange(shape.heads)[:, None]

        def results() -> Iterator[Result]:
            exact = reference_delta.patched_outputs(
                attended.double(), source.double(), base.double(), weights.double(), cells
            )
            yield Result("the outputs", patched_outputs(*given, cells), exact)
            yield Result("the peer's outputs", reference_delta.patched_outputs(*given, cells), exact)

        return Contest(
            lambda: patched_outputs(*given, cells), results, lambda: reference_delta.patched_outputs(*given, cells)
        )

    return Case(
        "head_delta",
        f"{shape.heads} cells of {prompts} prompts; {suffix} tokens; {shape.name}",
        dtype,
        prepare,
        peer="plain torch",
        flops=2 * prompts * suffix * shape.heads * shape.width * shape.d_model,
    )


def _of_variants(
    unit: str, target: float | None, shape: Shape, dtype: torch.dtype, sizes: Sizes, prepare: Callable[[], Contest]
) -> Case:
    cells, prompts, prefix, suffix = sizes
    seen = suffix * prefix + suffix * (suffix + 1) // 2
    return Case(
        "shared_prefix_attention",
        f"{cells} variants of {prompts} prompts; {prefix} + {suffix} tokens; {shape.name}",
        dtype,
        prepare,
        unit=unit,
        peer="torch's attention on copied keys",
        target=target,
        flops=4 * cells * prompts * shape.heads * seen * shape.width if unit == "ms" else None,
    )


def _variants(shape: Shape, dtype: torch.dtype, device: torch.device, sizes: Sizes) -> Variants:
    """Drawn, with heads behind positions as models have them."""
    cells, prompts, prefix, suffix = sizes

    def of(heads: int, seed: int, *where: int) -> Tensor:
        return drawn(*where, heads, shape.width, device=device, dtype=dtype, seed=seed).transpose(-2, -3)

    query = of(shape.heads, 1, cells, prompts, suffix)
    key, value = (of(shape.kv_heads, seed, cells, prompts, suffix) for seed in (2, 3))
    prefix_key, prefix_value = (of(shape.kv_heads, seed, prompts, prefix) for seed in (4, 5))
    seen = torch.ones(suffix, prefix + suffix, dtype=torch.bool, device=device).tril(prefix)
    return query, key, value, prefix_key, prefix_value, seen[None, None]


def _copied(given: Variants) -> tuple[Tensor, Tensor, Tensor]:
    """The same as batches of whole sequences, each with keys and values of its own."""
    query, key, value, prefix_key, prefix_value, _ = given
    # torch's attention in float32 is slow where heads share keys
    times = query.shape[2] // key.shape[2] if query.dtype == torch.float32 else 1
    copies = []
    for prefix, suffix in ((prefix_key, key), (prefix_value, value)):
        prefix, suffix = prefix.repeat_interleave(times, 1), suffix.repeat_interleave(times, 2)
        copies.append(torch.cat([prefix.expand(len(suffix), *prefix.shape), suffix], 3).flatten(0, 1))
    return query.flatten(0, 1), copies[0], copies[1]


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention [batch, head, row, d] of the last tokens of whole sequences, by whichever form torch has for it."""
    seen = causal_lower_right(query.shape[2], key.shape[2])
    return scaled_dot_product_attention(query, key, value, seen, enable_gqa=key.shape[1] < query.shape[1])
