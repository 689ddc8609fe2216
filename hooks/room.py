"""How many rows (cells x prompts x positions) of a sweep, or of a backward pass, a GPU's memory holds at once."""

from weakref import WeakKeyDictionary

import torch

from headlens.hooks.model import Model
from headlens.hooks.spread import device_of

# The rest is for the allocator's fragments, the libraries' workspaces, and what the estimate does not know.
SHARE = 0.7
_WIDEST: WeakKeyDictionary[Model, int] = WeakKeyDictionary()


def free_memory(model: Model) -> int | None:
    """Bytes that are free on the model's GPU, on the fullest of several; None for a model that is on none."""
    return min(map(_free, gpus_of(model)), default=None)


def rows_that_fit(model: Model, length: int, suffix: int, logits: float) -> int | None:
    """Rows of a batch that fit into what is free now; None for a model that is on no GPU.

    Prompts have `length` tokens, of which `suffix` are computed, and `logits` are read for each of these.
    """
    free = free_memory(model)
    return None if free is None else int(SHARE * free) // bytes_per_row(model, length, suffix, logits)


def gradient_rows_that_fit(model: Model, length: int, suffix: int, logits: float) -> int | None:
    """The same of a backward pass."""
    free = free_memory(model)
    return None if free is None else int(SHARE * free) // gradient_bytes_per_row(model, length, suffix, logits)


def rows_of_the_card(model: Model, length: int, suffix: int) -> int | None:
    """Rows of a batch that would fit if all of the memory were free: the same in every run on the same card."""
    whole = _whole(model)
    return None if whole is None else int(SHARE * whole) // bytes_per_row(model, length, suffix, 0.0)


def gradient_rows_of_the_card(model: Model, length: int, suffix: int) -> int | None:
    """The same of a backward pass."""
    whole = _whole(model)
    return None if whole is None else int(SHARE * whole) // gradient_bytes_per_row(model, length, suffix, 0.0)


def gpus_of(model: Model) -> set[torch.device]:
    """The CUDA devices that the model's layers compute on."""
    return {device for device in map(device_of, (layer.block for layer in model.layers)) if device.type == "cuda"}


def bytes_per_row(model: Model, length: int, suffix: int, logits: float) -> int:
    """An upper estimate of what one row of a batch holds at the worst moment of a replay."""
    stream, attention, inner = _of_a_block(model, length, suffix)
    return int(stream + max(attention, inner) + _of_logits(model, logits)) + 1


def gradient_bytes_per_row(model: Model, length: int, suffix: int, logits: float) -> int:
    """The same of a backward pass, for which all that the blocks make is kept."""
    return int(model.n_layers * sum(_of_a_block(model, length, suffix)) + _of_logits(model, logits)) + 1


def _of_a_block(model: Model, length: int, suffix: int) -> tuple[float, float, float]:
    """Bytes that one row takes in a block: of the residual stream, in the attention, in the MLP."""
    heads, kv_heads = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
    size = model.dtype.itemsize
    # a block's input, its output, and on the way between them sums and copies of each
    stream = 8 * model.d_model * size
    # as they are, rotated, scaled, and with the shared prefix copied in front
    inputs = (4 * heads + 2 * kv_heads * (2 + length / suffix)) * size
    # scores in the model's format, and a softmax of them in float32
    scores = model.n_heads * length * (2 * size + 3 * torch.float32.itemsize)
    experts = getattr(model.hf.config.get_text_config(), "num_experts_per_tok", None) or 1
    inner = 4 * experts * _widest(model) * size
    return float(stream), float(inputs + scores), float(inner)


def _of_logits(model: Model, logits: float) -> float:
    # as they come, and in float32 in a metric's hands
    return logits * (2 * model.dtype.itemsize + 4 * torch.float32.itemsize)


def _widest(model: Model) -> int:
    """The most numbers that one linear map of a block takes of a row, or makes of it."""
    # asked before every batch, and as slow to look up as a small batch is to run
    if model not in _WIDEST:
        shapes = (p.shape for layer in model.layers for p in layer.block.parameters() if p.ndim > 1)
        _WIDEST[model] = max(map(max, shapes))
    return _WIDEST[model]


def _free(device: torch.device) -> int:
    """What the system has free, and what torch holds of the card without using it."""
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def _whole(model: Model) -> int | None:
    """All bytes of the smallest of the model's GPUs."""
    return min((torch.cuda.mem_get_info(device)[1] for device in gpus_of(model)), default=None)
