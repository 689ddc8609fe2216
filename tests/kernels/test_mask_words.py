"""A mask's bits beside the mask itself, key by key."""

import pytest
import torch

pytest.importorskip("triton")
from headlens.kernels.mask_words import WORD, mask_words

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """New memory holds what no result may show."""
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **more: real(*shape, **more).fill_(0x5A5A5A5A))


def drawn(prompts, rows, keys, share=0.7):
    draw = torch.Generator().manual_seed(keys)
    return (torch.rand(prompts, rows, keys, generator=draw) < share).to(DEVICE)


def part_of(words, mask):
    """Each key's bit, and whether all bits behind the last key are 0."""
    bits = (words[..., None] >> torch.arange(WORD, device=words.device)) & 1
    bits = bits.flatten(-2).bool()
    return torch.equal(bits[..., : mask.shape[-1]], mask) and not bits[..., mask.shape[-1] :].any()


@pytest.mark.parametrize(("in_front", "behind"), [(0, 1), (1, 1), (31, 40), (32, 32), (33, 5), (64, 70), (700, 3)])
def test_each_key_is_a_bit(in_front, behind):
    mask = drawn(2, 3, in_front + behind)
    words = mask_words(mask, in_front).words
    assert words.shape[2] == -(-in_front // WORD) - (-behind // WORD)
    front_words = -(-in_front // WORD)
    assert part_of(words[..., :front_words], mask[..., :in_front])
    assert part_of(words[..., front_words:], mask[..., in_front:])


def test_where_a_row_starts_to_see_and_from_where_it_sees_all():
    """A row without gaps, one with, one that sees nothing, one that sees all, one that does not see the last key."""
    rows = ["..xxxxxx", ".xx.x.xx", "........", "xxxxxxxx", "..xxxxx."]
    mask = torch.tensor([[[key == "x" for key in row] + [row == rows[0]] * 3 for row in rows]], device=DEVICE)
    _, first, full = mask_words(mask, 8)
    assert first.tolist() == [[2, 1, 8, 0, 2]]
    assert full.tolist() == [[2, 6, 8, 0, 8]]


def test_keys_of_any_stride():
    """As rows of a square mask that serves every prompt, or turned."""
    mask = drawn(1, 40, 50).expand(3, -1, -1)[:, 7:12]
    turned = mask.transpose(1, 2).contiguous().transpose(1, 2)
    for each in (mask, turned):
        for found, want in zip(mask_words(each, 41), mask_words(mask.contiguous(), 41), strict=True):
            assert torch.equal(found, want)
