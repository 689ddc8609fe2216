"""A digest of a model's weights, so that no result is mixed up with another model's."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import nn

from headlens.hooks.spread import parameter_names, values_of


def weights_hash(module: nn.Module) -> str:
    """sha256 over the sha256 of each parameter (name, shape, dtype and bytes) as they are now, in the model's order.

    About 2 GB a second on each thread that torch may use.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        digests = threads.map(partial(_digest, module), parameter_names(module))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(module: nn.Module, name: str) -> bytes:
    parameter = values_of(module, name)
    digest = hashlib.sha256(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
    content: Any = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(content)
    return digest.digest()
