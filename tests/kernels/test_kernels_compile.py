"""The Triton kernels compile for a GPU that is not here, and what they need fits it."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from headlens.kernels.recalibration import Change, Groups
from headlens.kernels.row_stats import NAMES
from headlens.kernels.seen import Seen

# what a program may have of an H100's shared memory
MOST_SHARED = 227 * 1024
# Bytes of registers that a thread may spill: a few cost nothing beside the products of a tile.
MOST_SPILLED = 64
BATCH, HEADS, KV_HEADS, LENGTH = 2, 4, 2, 1024
RAGGED = {"first": torch.zeros(BATCH, dtype=torch.int64), "end": torch.zeros(BATCH, dtype=torch.int64)}
# rows, width of a head, what is seen, and the soft cap
SHAPES = (
    (LENGTH, 64, Seen(**RAGGED), None),
    (LENGTH, 128, Seen(**RAGGED), None),
    (LENGTH, 128, Seen(window=128, **RAGGED), 50.0),
    (1, 64, Seen(past=LENGTH - 1, **RAGGED), None),
)


@pytest.mark.slow
def test_kernels_compile_for_a_gpu():
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
    assert {kernel["kernel"] for kernel in kernels} == {"_grouped_attention", "_row_stats", "_received", "_divergence"}
    for kernel in kernels:
        assert kernel["shared"] < MOST_SHARED and kernel["spilled"] <= MOST_SPILLED, kernel


def compiled():
    """What came of each kernel, at each shape."""
    from gpu_compile import launched

    for dtype in (torch.bfloat16, torch.float32):
        for rows, width, seen, softcap in SHAPES:
            shape = {"dtype": str(dtype), "rows": rows, "width": width, "softcap": softcap}
            for module, launch in launches(dtype, rows, width, seen, softcap):
                yield from ({**built._asdict(), **shape} for built in launched(module, launch))


def launches(dtype, rows, width, seen, softcap):
    """Modules, and what launches their kernels."""
    from headlens.kernels import grouped_attention, head_stats, received_attention, rows_divergence

    query, key = (
        torch.zeros(BATCH, length, heads, width, dtype=dtype).transpose(1, 2)
        for length, heads in ((rows, HEADS), (LENGTH, KV_HEADS))
    )
    call = {"query": query, "key": key, "seen": seen, "scaling": width**-0.5, "softcap": softcap}
    groups = torch.zeros(BATCH, 1, LENGTH, dtype=torch.uint8)
    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    lse, counted = torch.zeros(BATCH, HEADS, rows), torch.ones(1, rows, dtype=torch.bool)
    of_copies = {"row_tokens": tokens[:, -rows:], "key_tokens": tokens}
    yield head_stats, partial(head_stats.row_stats, **call, what=NAMES, **of_copies)
    yield head_stats, partial(head_stats.row_stats, **call, groups=groups, n_groups=8)
    yield received_attention, partial(received_attention.received, **call, lse=lse, counted=counted)
    other = {"other_query": query, "other_key": key, "other_lse": lse}
    yield rows_divergence, partial(rows_divergence.divergence, **call, lse=lse, **other)
    index, multipliers, beta = Groups(groups[:, None], 4), torch.ones(1, HEADS, 1, 4), torch.ones(1, HEADS, 1)
    for change in (Change(multipliers=multipliers), Change(multipliers=multipliers, beta=beta)):
        yield (
            grouped_attention,
            partial(grouped_attention.grouped_attention, **call, value=key, groups=index, change=change),
        )


if __name__ == "__main__":
    json.dump(list(compiled()), sys.stdout)
