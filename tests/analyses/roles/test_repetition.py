"""Random tokens that come again, and how heads attend there, beside plain means over the model's own attention."""

import numpy as np
import pytest
import torch

import tiny_tokenizers
from headlens.analyses.roles.repetition import repeated_tokens, repetition
from headlens.hooks.model import wrap
from planted_circuit import planted_model
from tiny_models import held, tiny


def test_sequences_are_different_tokens_twice():
    tokens = repeated_tokens(held("llama"), 7, 5, seed=0)
    assert tokens.shape == (5, 14) and torch.equal(tokens[:, :7], tokens[:, 7:])
    assert all(len({*row.tolist()}) == 7 for row in tokens)
    assert torch.equal(tokens, repeated_tokens(held("llama"), 7, 5, seed=0))
    assert not torch.equal(tokens, repeated_tokens(held("llama"), 7, 5, seed=1))


def test_a_bos_stands_in_front_and_nothing_special_among_them():
    tokenizer = tiny_tokenizers.unigram()
    # as many as there are words, so that all of them are drawn; the model's table has more rows
    length = len(tokenizer) - len({*tokenizer.all_special_ids})
    hf = tiny("llama")
    hf.resize_token_embeddings(len(tokenizer) + 9)
    (row,) = repeated_tokens(wrap(hf, tokenizer), length, 1, seed=3)
    assert row[0] == tokenizer.bos_token_id and torch.equal(row[1 : length + 1], row[length + 1 :])
    assert {*row[1:].tolist()} == {*range(len(tokenizer))} - {*tokenizer.all_special_ids}


def test_the_planted_heads_are_seen():
    found = repetition(planted_model(), length=5, progress=False)
    assert found["previous_token"].values[0, 0] > 0.99 and found["induction"].values[1, 1] > 0.75
    # this head divides its attention between a token and its earlier copy
    np.testing.assert_allclose(found["duplicate"].values[1, 0], 0.5, atol=0.02)
    assert found["duplicate"].values[0, 1] < 0.01 and found["previous_token"].values[1, 1] < 0.5


@torch.no_grad()
def test_statistics_are_plain_means():
    model, length = held("llama"), 6
    found = repetition(model, length=length, sequences=3, seed=2, progress=False)
    tokens = repeated_tokens(model, length, 3, seed=2)
    _, kept = model.record(tokens, names_filter=["pattern"])
    pattern = torch.stack([kept[f"blocks.{layer}.attn.hook_pattern"] for layer in range(3)])
    late, early = torch.arange(length, 2 * length), torch.arange(length)
    rows = torch.arange(1, 2 * length)
    want = {
        "previous_token": pattern[..., rows, rows - 1],
        "duplicate": pattern[..., late, early],
        "induction": pattern[..., late, early + 1],
    }
    for name, each in want.items():
        np.testing.assert_allclose(found[name].samples, each.mean(-1).transpose(0, 1), rtol=0, atol=1e-5)
    papers = [found[name].provenance["paper"] for name in want]
    assert papers == ["2211.00593", "2211.00593", "2209.11895"]
    assert found["induction"].provenance["seed"] == 2 and found["induction"].samples.shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("llama", {"length": 0}, "length=0 and sequences=4 were given"),
        ("llama", {"sequences": 0}, "length=50 and sequences=0 were given"),
        ("llama", {"length": 121}, "length=121 different tokens were asked for, .* has 120"),
        ("gpt2", {"length": 33}, "Prompts of 66 tokens were given, and tiny-gpt2 .* has 64 positions"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(name, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        repetition(held(name), progress=False, **given)
