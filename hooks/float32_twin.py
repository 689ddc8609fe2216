"""A temporary float32 copy of a model in half precision, to see what its rounding does."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headlens.hooks.model import Model, wrap
from headlens.hooks.room import free_memory
from headlens.hooks.spread import is_placed

HALF = (torch.bfloat16, torch.float16)
# The part of the free memory that a copy may take: runs need some as well.
_SHARE = 0.8


def float32_twin(model: Model) -> Model:
    """A model with the same weights in float32, on the same device if its memory suffices, or else on the CPU.

    The model itself is left alone. ValueError with the reason where no copy can be made.
    """
    hf = model.hf
    if is_placed(hf):
        raise ValueError("its layers are spread over devices or kept outside of the GPU")
    if getattr(hf, "is_quantized", False):
        raise ValueError("its weights are quantised")
    replaced = next((type(module).__name__ for module in hf.modules() if "forward" in module.__dict__), None)
    if replaced is not None:
        raise ValueError(f"the forward of a {replaced} was replaced, and may compute with the weights that it knows")
    device = _place(model)
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(_wide(parameter.detach(), device), requires_grad=parameter.requires_grad)
        for parameter in hf.parameters()
    }
    memo |= {id(buffer): _wide(buffer, device) for buffer in hf.buffers()}
    try:
        return wrap(copy.deepcopy(hf, memo).eval(), model.tokenizer, model.name)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(hf).__name__} cannot be copied ({type(error).__name__}: {error})") from error


def _wide(tensor: Tensor, device: torch.device) -> Tensor:
    dtype = torch.float32 if tensor.dtype in HALF else tensor.dtype
    return tensor.to(device, dtype, copy=True)


def _place(model: Model) -> torch.device:
    """The model's own device if a copy fits there, or else the CPU. ValueError where it fits nowhere."""
    needed = sum(parameter.numel() for parameter in model.hf.parameters()) * torch.float32.itemsize
    free = free_memory(model)
    if free is not None and needed <= _SHARE * free:
        return model.device
    host = _free_host_memory()
    if host is not None and needed > _SHARE * host:
        raise ValueError(f"its copy takes {needed / 2**30:.1f} GiB, more than is free")
    return torch.device("cpu") if model.device.type == "cuda" else model.device


def _free_host_memory() -> int | None:
    """Bytes of this machine's memory that this process can still have, or None where the system does not say."""
    about = Path("/proc/meminfo")
    if not about.exists():
        return None
    lines = dict(line.split(":") for line in about.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    # a container may have less
    most, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if most.exists() and most.read_text().strip().isdigit():
        free = min(free, int(most.read_text()) - int(used.read_text()))
    return free
