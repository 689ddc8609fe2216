"""All cases of the kernels' bench at the sizes that are reported."""

import torch

from headlens.kernels.bench import MATMUL, Case
from headlens.kernels.bench_attention import RENORM, SCATTERED, TRANSFER, error, grouped, matmul, statistics
from headlens.kernels.bench_sweep import LLAMA_8B, SMOLLM2, head_delta, shared_prefix, shared_prefix_memory

NAMES = (MATMUL, "grouped_attention", "head_stats", "error", "shared_prefix_attention", "head_delta")
# What `head_stats` reads by default, and all that needs no tokens.
_FEW = frozenset({"entropy", "first", "previous"})
_ALL = _FEW | {"self", "distance", "top"}


def all_cases(device: torch.device, quick: bool = False) -> list[Case]:
    """The machine's matrix products first, which the others are held against. `quick`: one length and one model."""
    widths = (64,) if quick else (64, 128)
    lengths = (8192,) if quick else (8192, 32768)
    longest = () if quick else widths
    shapes = (SMOLLM2,) if quick else (SMOLLM2, LLAMA_8B)
    sizes = [(tokens, width) for tokens in lengths for width in widths]
    dtypes = (torch.bfloat16, torch.float32)
    models = [(shape, dtype) for shape in shapes for dtype in dtypes]
    return [
        *(matmul(8192, dtype, device) for dtype in dtypes),
        *(grouped(change, *size, device) for size in sizes for change in (RENORM, TRANSFER, SCATTERED)),
        # whether so many run at all; torch's attention is not asked
        *(grouped(how, 131072, width, device, alone=True) for width in longest for how in (RENORM, TRANSFER)),
        *(statistics(what, *size, device) for size in sizes for what in (_FEW, _ALL)),
        *(error(1024, width, device) for width in widths),
        *(shared_prefix(*model, device) for model in models),
        *(shared_prefix_memory(*model, device) for model in models),
        *(head_delta(*model, device, prompts=prompts) for model in models for prompts in (8, 64)),
    ]
