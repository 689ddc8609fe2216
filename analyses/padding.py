"""Padded batches as tokenizers make them, on either side, turned into prompts that start at position 0."""

import torch
from jaxtyping import Int64
from torch import Tensor


def real_part(mask: Tensor, tokens: Tensor) -> tuple[Int64[Tensor, " prompt"], Int64[Tensor, " prompt"]]:
    """How many real tokens each row of the attention mask has, and where they start.

    ValueError unless the mask has the tokens' shape and marks one unbroken stretch in every row.
    """
    if mask.shape != tokens.shape:
        raise ValueError(
            f"The attention mask has shape {[*mask.shape]} for tokens {[*tokens.shape]}; give one for each."
        )
    real = mask.bool()
    lengths, starts = real.sum(1), real.int().argmax(1)
    count = torch.arange(mask.shape[1])
    broken = (real != ((count >= starts[:, None]) & (count < (starts + lengths)[:, None]))).any(1) | (lengths == 0)
    if broken.any():
        prompt = int(broken.nonzero()[0])
        raise ValueError(
            f"The attention mask of prompt {prompt} is {mask[prompt].tolist()}; expected one unbroken run of ones, "
            "with padding before or behind it."
        )
    return lengths, starts


def moved_to_front(
    rows: Int64[Tensor, "prompt pos"], starts: Int64[Tensor, " prompt"], lengths: Int64[Tensor, " prompt"]
) -> Int64[Tensor, "prompt longest"]:
    """Rows that begin with their first real token; what is behind the last one repeats it, and nothing reads it."""
    count = torch.arange(int(lengths.max()))
    return rows.gather(1, starts[:, None] + torch.minimum(count, lengths[:, None] - 1))
