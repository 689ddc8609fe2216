"""Windows of text: they are pieces of it, they do not overlap, and what is too short is refused."""

import builtins

import pytest
import torch

import tiny_tokenizers
from headlens.analyses.english import english_prose, english_windows, text_windows

NAMES = ("bpe", "unigram", "word_pieces")
LEADS = {"bpe": [], "unigram": ["<s>"], "word_pieces": ["[CLS]"]}
TEXT = " ".join(tiny_tokenizers.sentences()[:40])


@pytest.mark.parametrize("name", NAMES)
def test_windows_are_pieces_of_the_text_that_do_not_overlap(name):
    tokenizer = getattr(tiny_tokenizers, name)()
    lead = tokenizer.convert_tokens_to_ids(LEADS[name])
    whole = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    own = 17 - len(lead)
    there = len(whole) // own
    windows = text_windows(tokenizer, TEXT, there, 17, seed=3)
    assert windows.shape == (there, 17) and windows.dtype == torch.int64
    assert all(row[: len(lead)].tolist() == lead for row in windows)
    pieces = [tuple(row[len(lead) :].tolist()) for row in windows]
    assert sorted(pieces) == sorted(tuple(whole[own * at : own * (at + 1)]) for at in range(there))
    with pytest.raises(ValueError, match=f"text's {len(whole)} tokens make {there}; give a longer text"):
        text_windows(tokenizer, TEXT, there + 1, 17)


def test_the_seed_draws_which_windows_and_in_which_order():
    tokenizer = tiny_tokenizers.bpe()
    first, again, other = (text_windows(tokenizer, TEXT, 9, 7, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(text_windows(tokenizer, TEXT, 4, 7, seed=1), first[:4])


@pytest.mark.parametrize(
    ("n", "length", "sentence"),
    [
        (0, 7, "n=0 windows were asked for"),
        (1, 1, "length=1 was given, and this tokenizer puts 1 tokens in front of a text; give at least 2"),
        (1, -3, "length=-3 was given"),
    ],
)
def test_bad_arguments_get_a_sentence(n, length, sentence):
    with pytest.raises(ValueError, match=sentence):
        text_windows(tiny_tokenizers.unigram(), TEXT, n, length)


def test_a_text_of_nothing_is_refused():
    with pytest.raises(ValueError, match="text's 0 tokens make 0"):
        text_windows(tiny_tokenizers.bpe(), "", 1, 7)


def test_english_is_sentences_each_paragraph_once():
    paragraphs = english_prose().split("\n\n")
    assert len(paragraphs) > 400 and len(set(paragraphs)) == len(paragraphs)
    assert all(text[0].isupper() and text.endswith(".") and "  " not in text for text in paragraphs)
    assert not any("\n" in text or text.startswith(">>>") or "****" in text for text in paragraphs)
    letters = sum(letter.isalpha() or letter == " " for letter in english_prose())
    assert letters / len(english_prose()) > 0.9


def test_english_windows_are_windows_of_the_prose():
    tokenizer = tiny_tokenizers.bpe()
    windows = english_windows(tokenizer, 5, 24, seed=2)
    assert torch.equal(windows, text_windows(tokenizer, english_prose(), 5, 24, seed=2))
    prose = english_prose()
    # byte-level windows may start within a character that is several bytes
    assert all(tokenizer.decode(row).strip("\ufffd") in prose for row in windows)


def test_a_python_without_its_reference_gets_a_sentence(monkeypatch):
    plain = builtins.__import__

    def without(name, *arguments, **named):
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return plain(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"came without pydoc_data\.topics.*text_windows"):
        english_windows(tiny_tokenizers.bpe(), 1, 7)
