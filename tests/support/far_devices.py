"""Devices `far:0`, `far:1` ... that compute on the CPU but refuse to mix, as GPUs do: a spread model without a GPU.

The backend is registered for the whole process, so tests that use it start one of their own.
"""

from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
# Functions that take tensors of several devices.
_MOVING = {aten.copy_.default}
# Functions whose second argument, the indices, may be on the CPU.
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class Far(torch.Tensor):
    """A CPU tensor that says it is elsewhere."""

    @staticmethod
    def __new__(cls, inner, device):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=device
        )

    def __init__(self, inner, device):
        self.inner = inner

    def data_ptr(self):
        return self.inner.data_ptr()

    def __getitem__(self, at):
        return super().__getitem__(_indices(at))

    def __setitem__(self, at, value):
        super().__setitem__(_indices(at), value)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})

    __torch_function__: Any = torch._C._disabled_torch_function_impl


class _Elsewhere(TorchDispatchMode):
    """New tensors are far where their `device` says so."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})


@contextmanager
def far_devices():
    """Tensors may be on far devices inside the block."""
    # these two reach below Python
    attending = patch.object(nn.functional, "scaled_dot_product_attention", _attention)
    with _Elsewhere(), attending, patch.object(torch, "tensor", _tensor):
        yield


def register():
    """Make torch know the devices."""
    _setup_privateuseone_for_python_backend("far")


def place(hf, where):
    """Put the submodules named in `where` on devices, with accelerate's hooks, as its dispatch does on GPUs."""
    add_hook_to_module(hf, _Placed(execution_device=next(iter(where.values())), io_same_device=True))
    for path, device in where.items():
        part = hf.get_submodule(path)
        for module in part.modules():
            for key, tensor in module._parameters.items():
                if tensor is not None:
                    module._parameters[key] = nn.Parameter(Far(tensor.detach(), device), requires_grad=False)
            for key, tensor in module._buffers.items():
                if tensor is not None:
                    module._buffers[key] = Far(tensor, device)
        add_hook_to_module(part, _Placed(execution_device=device))


def _indices(at):
    """Lists of numbers as tensors: torch would make them on the device, below Python."""
    return tuple(
        torch.tensor(each) if isinstance(each, list) else each for each in (at if isinstance(at, tuple) else (at,))
    )


_near_tensor = torch.tensor


def _tensor(data, *, dtype=None, device=None):
    made = _near_tensor(data, dtype=dtype)
    return made if device is None else made.to(device)


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    return aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


class _Placed(AlignDevicesHook):
    def init_hook(self, module):
        return module


def _computed(function, args, kwargs):
    far = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Far)]
    wanted = kwargs.get("device")
    if wanted is None and far:
        wanted = far[0].device
        if function not in _MOVING:
            _refuse_mixed(function, args, kwargs, wanted)
    if torch.device(wanted or "cpu").type == "far" or far:
        kwargs = {**kwargs, **({"device": torch.device("cpu")} if "device" in kwargs else {})}
    inner_args, inner_kwargs = tree_map(lambda x: x.inner if isinstance(x, Far) else x, (args, kwargs))
    out = function(*inner_args, **inner_kwargs)
    if function._schema.is_mutable and isinstance(out, torch.Tensor):
        return args[0]
    if wanted is None or torch.device(wanted).type != "far":
        return out
    return tree_map(lambda x: Far(x, torch.device(wanted)) if isinstance(x, torch.Tensor) else x, out)


def _refuse_mixed(function, args, kwargs, device):
    indices = [id(each) for each in args[1]] if function in _INDEXING else []
    for leaf in tree_leaves((args, kwargs)):
        if not isinstance(leaf, torch.Tensor) or leaf.device == device:
            continue
        if leaf.device.type != "cpu" or (leaf.ndim > 0 and id(leaf) not in indices):
            raise RuntimeError(f"{function} was given tensors on {device} and {leaf.device}.")
