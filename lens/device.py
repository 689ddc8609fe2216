"""Where models go when nobody says where, and in which number format."""

import torch


def default_device() -> torch.device:
    """Return the GPU that torch would use, else the CPU; Apple's GPUs are used only when asked for."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def default_dtype() -> torch.dtype:
    """Return float32: patching subtracts nearly equal numbers, and half precision would blur small heads."""
    return torch.float32


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Turn "bfloat16" into torch.bfloat16; ValueError for anything that is not a floating-point type."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    raise ValueError(f"{dtype!r} is not a number format of weights; expected float32, bfloat16 or float16.")


def parse_device(device: torch.device | str) -> torch.device:
    """Turn "cuda:1" into a device; ValueError for a name torch does not know or a GPU that is not there."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is not a device; expected cpu, cuda or cuda:1.") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"Device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA GPUs.")
    return found
