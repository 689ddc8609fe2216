"""A mask as bits: 32 keys of a row are one whole number, so that a kernel has a tile's mask from one load per row."""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Int32
from torch import Tensor

from headlens.kernels.launch import launch

WORD = 32
# words that a program makes at once
_ROUND = 16


class MaskWords(NamedTuple):
    """Which keys each row sees, in two parts: those in front, and those behind, which start a word of their own.

    Bit i of a part's word w is key 32 w + i of that part, and 0 behind its last key. In front, a row sees no key before
    `first`, and every key from `full` on.
    """

    words: Int32[Tensor, "prompt row word"]
    first: Int32[Tensor, "prompt row"]
    full: Int32[Tensor, "prompt row"]


def mask_words(mask: Bool[Tensor, "prompt row key"], in_front: int) -> MaskWords:
    """The mask's bits; `in_front` is how many keys the first part has."""
    prompts, rows, keys = mask.shape
    front_words = triton.cdiv(in_front, WORD)
    count = front_words + triton.cdiv(keys - in_front, WORD)
    words = torch.empty(prompts, rows, count, dtype=torch.int32, device=mask.device)
    first, full = (torch.empty(prompts, rows, dtype=torch.int32, device=mask.device) for _ in range(2))
    launch(
        _mask_words, prompts * rows,
        mask.view(torch.uint8), words, first, full, *mask.stride(), rows, keys, in_front, front_words, count,
        WORD=WORD, ROUND=_ROUND,
    )  # fmt: skip
    return MaskWords(words, first, full)


# sizes that change from call to call, for which nothing is compiled anew
_SIZES = ("m_prompt", "m_row", "rows", "keys", "in_front", "front_words", "count")


@no_type_check
@triton.jit(do_not_specialize=_SIZES)
def _mask_words(
    MASK, WORDS, FIRST, FULL, m_prompt, m_row, m_key, rows, keys, in_front, front_words, count,
    WORD: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    mask = MASK + at // rows * m_prompt + at % rows * m_row
    bit = tl.arange(0, WORD)
    first, full = in_front, tl.minimum(in_front, 0)
    for from_word in range(0, count, ROUND):
        word = from_word + tl.arange(0, ROUND)
        behind = word >= front_words
        start = tl.where(behind, in_front + (word - front_words) * WORD, word * WORD)
        key = start[:, None] + bit[None, :]
        near = key < tl.where(behind, keys, in_front)[:, None]
        seen = tl.load(mask + key.to(tl.int64) * m_key, mask=near, other=0) != 0
        bits = tl.sum(seen.to(tl.int32) << bit[None, :], 1)
        tl.store(WORDS + at * count + word, bits, mask=word < count)
        first = tl.minimum(first, tl.min(tl.min(tl.where(seen, key, in_front), 1), 0))
        full = tl.maximum(full, tl.max(tl.max(tl.where(~seen & (key < in_front), key + 1, 0), 1), 0))
    tl.store(FIRST + at, first)
    tl.store(FULL + at, full)
