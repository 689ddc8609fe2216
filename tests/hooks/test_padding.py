"""Padded batches give each prompt what it gets alone."""

import pytest
import torch

from headlens.hooks.edits import Ablate, Gate, Patch
from headlens.hooks.model import wrap
from tiny_models import GENERATING, held, inputs_for, tiny

LENGTHS = (11, 7)


def padded(side):
    """Two prompts of 11 and 7 tokens, padded on one side; their mask, and the columns of the real tokens."""
    ids = inputs_for("llama", length=11)["input_ids"].clone()
    mask = torch.ones_like(ids)
    empty = slice(0, 4) if side == "left" else slice(7, 11)
    short = ids[1, :7].clone()
    ids[1], mask[1, empty] = 1, 0
    ids[1, mask[1].bool()] = short
    return ids, mask


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_for_real_tokens(name, side):
    model = held(name)
    ids, mask = padded(side)
    shift = 4 if side == "left" else 0
    with torch.no_grad():
        _, reference = model.record(inputs_for(name, seed=9), names_filter="z")
        z = reference["blocks.1.attn.hook_z"]
        moved = z.clone()
        moved[1] = z[1].roll(shift, 0)  # the same vectors at the columns where the padded prompt's tokens stand
        with model.edited(
            Patch("L1H0", {"blocks.1.attn.hook_z": moved}, pos=[3, 3 + shift]),
            Ablate("L0H1"),
            Gate("L2H2", 2.0),
        ):
            together, cache = model.record(ids, attention_mask=mask, names_filter=["pattern", "z"])
        for row in range(2):
            own = ids[row : row + 1, mask[row].bool()]
            columns = mask[row].nonzero().flatten()
            with model.edited(
                Patch("L1H0", {"blocks.1.attn.hook_z": z[row : row + 1]}, pos=3),
                Ablate("L0H1"),
                Gate("L2H2", 2.0),
            ):
                alone, single = model.record(own, names_filter=["pattern", "z"])
            torch.testing.assert_close(together[row, columns], alone[0], rtol=0, atol=1e-4)
            for layer in range(3):
                pattern = cache[f"blocks.{layer}.attn.hook_pattern"][row][:, columns][:, :, columns]
                torch.testing.assert_close(pattern, single[f"blocks.{layer}.attn.hook_pattern"][0], rtol=0, atol=1e-5)


def test_texts_are_padded_with_their_mask(word_tokenizer):
    model = wrap(tiny("llama"), word_tokenizer)
    with torch.no_grad():
        together = model(["w5 w6 w7 w8", "w9 w10"])
        alone = model("w9 w10")
    own = alone.shape[1]
    columns = slice(-own, None) if word_tokenizer.padding_side == "left" else slice(0, own)
    torch.testing.assert_close(together[1, columns], alone[0], rtol=0, atol=1e-5)


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="without a tokenizer"):
        held("llama")("hello")
