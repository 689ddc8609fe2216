"""What the clock reads off a model's arguments: tokens so far, and which of them are real."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from headlens.hooks.clock import Clock

IDS = torch.tensor([[5, 6, 7, 8], [1, 1, 9, 4]])
REAL = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


class Decoder(nn.Module):
    config = None

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None):
        raise NotImplementedError


class Both(nn.Module):
    config = type("Config", (), {"is_encoder_decoder": True})

    def forward(self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None):
        raise NotImplementedError


def cache_of(length):
    cache = DynamicCache()
    if length:
        cache.update(torch.zeros(2, 1, length, 3), torch.zeros(2, 1, length, 3), 0)
    return cache


def causal(real):
    """Masks [batch, 1, query, key] with four more keys than were read, as of a static cache."""
    length = real.shape[1]
    allowed = real.bool()[:, None, None, :] & torch.ones(length, length, dtype=torch.bool).tril()
    return nn.functional.pad(allowed, (0, 4), value=False)


def additive(allowed):
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


FULL = causal(REAL)
MASKS = {
    "rows": REAL,
    "static": FULL,
    "additive": additive(FULL),
    "by_layer_kind": {"full_attention": FULL, "sliding_attention": FULL & FULL.triu(-1)},
    "by_layer_kind_in_part": {"full_attention": None, "sliding_attention": FULL & FULL.triu(-1)},
    "padded_behind": REAL.flip(1),
    "static_padded_behind": causal(REAL.flip(1)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_padding_in_every_form_of_mask(kind):
    clock = Clock()
    clock.read(Decoder(), (IDS,), {"attention_mask": MASKS[kind]})
    assert clock.real is not None
    assert clock.real.tolist() == (REAL.flip(1) if "behind" in kind else REAL).bool().tolist()


@pytest.mark.parametrize("kind", ["rows", "static", "additive", "by_layer_kind"])
def test_padding_is_remembered_over_cached_steps(kind):
    """A step's mask of a static cache tells of the newest tokens alone, where a window hides the oldest."""
    clock, module = Clock(), Decoder()
    clock.read(module, (IDS,), {"attention_mask": MASKS[kind], "past_key_values": cache_of(0)})
    step = {
        "rows": torch.cat([REAL, torch.ones(2, 1, dtype=torch.int64)], 1),
        "static": torch.tensor([False, False, False, True, True, False, False, False]).expand(2, 1, 1, 8),
    }
    step["additive"] = additive(step["static"])
    step["by_layer_kind"] = {"full_attention": step["static"], "sliding_attention": step["static"]}
    clock.read(module, (), {"input_ids": IDS[:, :1], "attention_mask": step[kind], "past_key_values": cache_of(4)})
    assert clock.past == 4
    assert clock.real is not None and clock.real.tolist() == [[True] * 5, [False, False, True, True, True]]
    assert clock.tokens is not None and clock.tokens.tolist() == [[5, 6, 7, 8, 5], [1, 1, 9, 4, 1]]


@pytest.mark.parametrize("mask", [None, torch.ones(2, 4), causal(torch.ones(2, 4)), {"full_attention": None}])
def test_no_padding_is_none(mask):
    clock = Clock()
    clock.read(Decoder(), (), {"input_ids": IDS, "attention_mask": mask})
    assert clock.real is None
    assert torch.equal(clock.tokens, IDS)


def test_arguments_by_position_or_by_name():
    clock = Clock()
    clock.read(Decoder(), (IDS, REAL), {})
    assert clock.real is not None and torch.equal(clock.real, REAL.bool())
    clock.read(Decoder(), (IDS[:, :1], None, cache_of(4)), {})
    assert (clock.past, clock.real) == (4, None)


def test_of_an_encoder_decoder_it_is_the_decoders():
    clock = Clock()
    clock.read(Both(), (IDS, REAL), {"decoder_input_ids": IDS.flip(1)})
    assert torch.equal(clock.tokens, IDS.flip(1)) and clock.real is None
    clock.read(Both(), (IDS,), {"decoder_input_ids": IDS, "decoder_attention_mask": REAL.flip(1)})
    assert clock.real is not None and torch.equal(clock.real, REAL.flip(1).bool())
    clock.read(Both(), (IDS,), {})
    assert clock.tokens is None


def test_tokens_that_were_not_seen_are_not_known():
    clock = Clock()
    clock.read(Decoder(), (), {"input_ids": IDS[:, :1], "past_key_values": cache_of(4)})
    assert clock.tokens is None
    clock.read(Decoder(), (torch.zeros(2, 4, 8),), {})
    assert clock.tokens is None


def test_memory_lasts_for_one_run():
    clock = Clock()
    clock.read(Decoder(), (IDS,), {})
    clock.memory["edit"] = {"kept": 1}
    clock.read(Decoder(), (), {"input_ids": IDS[:, :1], "past_key_values": cache_of(4)})
    assert clock.memory == {"edit": {"kept": 1}}
    clock.read(Decoder(), (IDS,), {})
    assert clock.memory == {}
