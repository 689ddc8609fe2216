"""Which of an operation's two forms runs: its Triton kernel, or its plain-torch twin.

The only file that asks about devices. Left to itself, it takes the kernel on a GPU that can run it, and the twin for
everything else. `forced("twin")` or `forced("kernel")`, or HEADLENS_KERNELS=twin|kernel in the environment, overrules
it; a kernel on the CPU runs in Triton's interpreter (TRITON_INTERPRET=1), slowly.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

CHOICES = ("auto", "twin", "kernel")
_VARIABLE = "HEADLENS_KERNELS"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WIDEST = 256
# Compute capability from which bfloat16 products are the hardware's.
_CAPABILITY = (8, 0)
_forced: ContextVar[str | None] = ContextVar("_forced", default=None)


class Choice(NamedTuple):
    """Whether the kernel runs, and why it does or does not."""

    kernel: bool
    why: str


@contextmanager
def forced(form: str) -> Iterator[None]:
    """Every operation in this block runs as its "twin", or as its "kernel"; "auto" leaves the choice to the device."""
    token = _forced.set(_checked(form, "forced"))
    try:
        yield
    finally:
        _forced.reset(token)


def choice(*tensors: Tensor | None) -> Choice:
    """What an operation on these tensors, whose last axes are widths of heads, runs as.

    ValueError where the kernel is forced and cannot run.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    form, first = _wanted(), given[0]
    if form == "twin":
        return Choice(False, "plain torch is forced")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return Choice(False, "gradients are wanted, which plain torch has")
    obstacle = _obstacle(given)
    if form == "kernel" and obstacle is not None:
        raise ValueError(f"Triton kernels are forced and cannot run: {obstacle}. Leave the choice open (auto).")
    if obstacle is not None:
        return Choice(False, obstacle)
    if form == "auto" and first.device.type == "cpu":
        return Choice(False, "tensors on the CPU")
    return Choice(True, "the kernel is forced" if form == "kernel" else f"tensors on {_card(first.device)}")


def on_device(device: torch.device) -> Choice:
    """What operations on ordinary float32 tensors of this device run as."""
    return choice(torch.empty(1, 64, device=device))


def _wanted() -> str:
    return _forced.get() or _checked(os.environ.get(_VARIABLE, "auto"), _VARIABLE)


def _checked(form: str, where: str) -> str:
    if form not in CHOICES:
        raise ValueError(f"{where} was given {form!r}; the choices are {', '.join(CHOICES)}.")
    return form


def _obstacle(tensors: list[Tensor]) -> str | None:
    """Why no kernel can run on these tensors."""
    if not _has_triton():
        return "triton is not installed"
    first = tensors[0]
    if any(tensor.device != first.device for tensor in tensors):
        return "tensors are on several devices"
    if first.device.type == "cpu" and not _interpreting():
        return "tensors on the CPU"
    if first.device.type not in ("cpu", "cuda"):
        return f"tensors on {first.device.type}"
    if first.device.type == "cuda" and _capability(first.device) < _CAPABILITY:
        had, wanted = (".".join(map(str, each)) for each in (_capability(first.device), _CAPABILITY))
        return f"{_card(first.device)} has compute capability {had}, and {wanted} is needed"
    if any(tensor.dtype not in _DTYPES or tensor.dtype != first.dtype for tensor in tensors):
        return f"{' and '.join(sorted({str(tensor.dtype).removeprefix('torch.') for tensor in tensors}))} numbers"
    if max(tensor.shape[-1] for tensor in tensors) > _WIDEST:
        return f"heads wider than {_WIDEST}"
    return None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _interpreting() -> bool:
    # as Triton reads it, without importing Triton
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _card(device: torch.device) -> str:
    return "the CPU, in Triton's interpreter" if device.type == "cpu" else torch.cuda.get_device_name(device)
