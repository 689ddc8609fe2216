"""Cells patched from a cache: by replay, or by whole forwards under TransformerLens's hooks where that is not exact."""

import warnings
from contextlib import nullcontext

import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.compat.asked import site_of
from headlens.compat.cached_replay import NotExact, prepare
from headlens.compat.patch import Patch
from headlens.compat.replaying import Evaluate
from headlens.compat.runner import Runner, bridged
from headlens.hooks.host_memory import keep_freed_memory
from headlens.hooks.packing import packed_bytes, packed_linears

# With fewer cells, whole forwards take no longer than setting the engine up.
FEW = 12
# Packing the weights takes as long as some two hundred cells save by it, and as much memory again as they have.
_WORTH_PACKING, _PACKED_BYTES = 200, 2**29


def measured(runner: Runner, patch: Patch, evaluate: Evaluate) -> Tensor:
    """What `evaluate` makes of each row's patched logits, [row, metric (, batch)]."""
    site = site_of(patch.setter, patch.activation)
    if site is None or (site in ("q", "k") and patch.unrotated):
        runner = bridged(runner)
    with tqdm(total=len(patch.rows), unit=" cells", desc=f"patching {patch.activation}") as bar:
        if site is not None and len(patch.rows) >= FEW:
            try:
                return _replayed(runner, patch, site, evaluate, bar)
            except NotExact as problem:
                if problem.reason is not None:
                    warnings.warn(f"Patching runs a whole forward for each cell: {problem.reason}", stacklevel=4)
        values = []
        for row in patch.rows:
            values.append(evaluate(patch.whole(runner, row)))
            bar.update()
        return torch.stack(values)


def _replayed(runner: Runner, patch: Patch, site: str, evaluate: Evaluate, bar: tqdm) -> Tensor:
    if isinstance(runner.model, str):
        raise NotExact(runner.model)
    keep_freed_memory()
    packs = len(patch.rows) >= _WORTH_PACKING and packed_bytes(runner.model) <= _PACKED_BYTES
    with packed_linears(runner.model) if packs else nullcontext():
        return prepare(runner, runner.model, patch, site, evaluate).values(bar)
