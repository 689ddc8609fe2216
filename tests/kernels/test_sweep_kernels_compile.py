"""The sweep engine's Triton kernels compile for a GPU that is not here, and their programs fit its registers."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

# what a program may have of an H100's shared memory
MOST_SHARED = 227 * 1024
# Bytes that a thread may spill: none do with Triton 3.9, whose neighbours may differ a little.
MOST_SPILLED = 64
PROMPTS, PREFIX, SUFFIX, HEADS, KV_HEADS = 8, 200, 8, 9, 3
# widths of heads, and how many cells: such that tiles are full, and that a smaller one has all rows
SHAPES = ((64, 256), (128, 256), (80, 256), (256, 256), (64, 1), (128, 2))


@pytest.mark.slow
def test_sweep_kernels_compile_for_a_gpu():
    """In a process of its own: here kernels are interpreted, and jaxtyping has wrapped what launches them."""
    triton = pytest.importorskip("triton", reason="triton is not installed")
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    for tool in ("ptxas", "cuobjdump"):
        if not (tools / tool).exists():
            pytest.skip(f"this triton comes without {tool}, which compiles for NVIDIA's GPUs or reads what it made")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "support")
    done = subprocess.run([sys.executable, "-P", __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    names = [kernel["kernel"] for kernel in kernels]
    assert {name: names.count(name) for name in names} == {
        "_mask_words": 1,
        "_shared_prefix_attention": 2 * len(SHAPES),
        "_patched_outputs": 2 * len(SHAPES),
    }
    for kernel in kernels:
        assert kernel["spilled"] <= MOST_SPILLED and kernel["shared"] < MOST_SHARED, kernel


def compiled():
    """What came of each kernel, at each shape."""
    from gpu_compile import launched
    from headlens.kernels import head_delta, mask_words, shared_prefix_attention

    mask = torch.ones(1, SUFFIX, PREFIX + SUFFIX, dtype=torch.bool)
    yield from (built._asdict() for built in launched(mask_words, partial(mask_words.mask_words, mask, PREFIX)))
    words = mask_words.MaskWords(*(torch.zeros(1, SUFFIX, *more, dtype=torch.int32) for more in ((8,), (), ())))
    for dtype in (torch.bfloat16, torch.float32):
        for width, cells in SHAPES:
            shape = {"dtype": str(dtype), "width": width, "cells": cells}
            with patch.object(shared_prefix_attention, "mask_words", lambda *_: words):
                attend = partial(shared_prefix_attention.shared_prefix_attention, *attention(dtype, width, cells))
                yield from ({**built._asdict(), **shape} for built in launched(shared_prefix_attention, attend))
            patched = partial(head_delta.patched_outputs, *outputs(dtype, width, cells))
            yield from ({**built._asdict(), **shape} for built in launched(head_delta, patched))


def attention(dtype, width, cells):
    """Laid out as in the engine: heads behind positions."""
    query, key = (
        torch.empty(cells, PROMPTS, SUFFIX, heads, width, dtype=dtype).transpose(2, 3) for heads in (HEADS, KV_HEADS)
    )
    prefix = torch.empty(PROMPTS, PREFIX + SUFFIX, KV_HEADS, width, dtype=dtype).transpose(1, 2)[:, :, :PREFIX]
    allowed = torch.ones(1, 1, SUFFIX, PREFIX + SUFFIX, dtype=torch.bool)
    return query, key, key, prefix, prefix, allowed, width**-0.5


def outputs(dtype, width, cells):
    """A linear layer's weights, with the heads' widths as their densest axis."""
    prompts = PROMPTS if cells > 2 else 1
    attended = torch.empty(prompts, SUFFIX, HEADS * width, dtype=dtype)
    z = torch.empty(prompts, SUFFIX, HEADS, width, dtype=dtype)
    weights = torch.empty(HEADS * width, HEADS * width, dtype=dtype).T.unflatten(0, (HEADS, -1))
    return attended, z, z, weights, torch.zeros(cells, 1, dtype=torch.int64)


if __name__ == "__main__":
    json.dump(list(compiled()), sys.stdout)
