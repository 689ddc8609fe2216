"""Triton kernels compiled for a GPU that need not be there, with the arguments that their callers launch them with.

Needs a process without TRITON_INTERPRET. `launched(module, function)` runs what launches a kernel on CPU tensors and
says what the GPU's assembler made of it. All that a thread keeps on its stack counts as spilled.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGET = GPUTarget("cuda", 90, 32)
OPTIONS = ("num_warps", "num_stages")
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "i1",
}


class Built(NamedTuple):
    """Of one thread registers and bytes of spilled ones, of one program bytes of shared memory."""

    kernel: str
    registers: int
    spilled: int
    shared: int


class Launches:
    """Stands for a kernel, and notes what it is launched with instead."""

    def __init__(self, kernel: Any):
        self.kernel, self.noted = kernel, []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: self.noted.append((args, kwargs))


def launched(module: ModuleType, function: Callable[[], Any]) -> list[Built]:
    """Each launch that the function makes of a module's kernels."""
    with _noting(module) as kernels:
        function()
    return [built(each.kernel, args, kwargs) for each in kernels for args, kwargs in each.noted]


@contextmanager
def _noting(module: ModuleType) -> Iterator[list[Launches]]:
    kernels = {name: Launches(each) for name, each in vars(module).items() if isinstance(each, triton.JITFunction)}
    with patch.multiple(module, **kernels):
        yield list(kernels.values())


def built(kernel: Any, args: tuple, kwargs: dict[str, Any]) -> Built:
    """Compile for compute capability 9.0 as `kernel[grid](*args, **kwargs)` would."""
    options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
    given = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        # 1 is made a constant by Triton too
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = _type(value)
        if (value.data_ptr() if isinstance(value, torch.Tensor) else value) % 16 == 0 and type(value) is not float:
            attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=TARGET, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, spilled = (int(re.search(rf"{name}:(\d+)", said)[1]) for name in ("REG", "STACK"))
    return Built(kernel.fn.__name__, registers, spilled, compiled.metadata.shared)


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, int):
        return "i32" if value < 2**31 else "i64"
    return "fp32"
