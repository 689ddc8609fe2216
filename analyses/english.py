"""Windows of running text for statistics of attention: real English without a download, or the user's own text.

The English is the prose of Python's own reference (`pydoc_data.topics` of the standard library): technical, and other
from one Python version to the next, so that a result made from it should say which.
"""

import re
from random import Random
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headlens.analyses.templates import deal
from headlens.analyses.tokens import lead_in, tokenizer_of
from headlens.hooks.model import Model


def english_windows(
    model: Model | PreTrainedTokenizerBase, n: int, length: int, seed: int = 0
) -> Int64[Tensor, "n length"]:
    """n windows of `length` tokens of English prose, as `text_windows` cuts them; some 40,000 tokens are there.

    ValueError where this Python came without its reference, or for more windows than its prose has.
    """
    return text_windows(model, english_prose(), n, length, seed)


def text_windows(
    model: Model | PreTrainedTokenizerBase, text: str, n: int, length: int, seed: int = 0
) -> Int64[Tensor, "n length"]:
    """n windows of `length` tokens of a text, which do not overlap, in an order drawn by the seed.

    Where the tokenizer puts special tokens in front of a text (BOS), they stand in front of each window and count to
    its length. Windows start wherever the last one ended, mostly within a sentence. Equal arguments give equal windows.
    ValueError if the text is too short for n of them.
    """
    if n < 1:
        raise ValueError(f"n={n} windows were asked for; give at least 1.")
    tokenizer = tokenizer_of(model)
    before = lead_in(tokenizer, None)
    own = length - len(before)
    if own < 1:
        raise ValueError(
            f"length={length} was given, and this tokenizer puts {len(before)} tokens in front of a text; "
            f"give at least {len(before) + 1}."
        )
    # verbose: it would warn that the text is longer than the model's context
    encoded: Any = tokenizer(text, add_special_tokens=False, verbose=False)
    tokens = torch.tensor(encoded["input_ids"], dtype=torch.int64)
    there = len(tokens) // own
    if n > there:
        raise ValueError(
            f"{n} windows of {length} tokens were asked for, but the text's {len(tokens)} tokens make {there}; "
            "give a longer text, or ask for fewer or shorter windows."
        )
    dealt = deal(Random(seed), range(there))
    windows = torch.stack([tokens[own * at : own * (at + 1)] for at in (next(dealt) for _ in range(n))])
    return torch.cat([torch.tensor(before, dtype=torch.int64).expand(n, -1), windows], 1)


def english_prose() -> str:
    """The paragraphs of Python's reference that are sentences, each once, without line breaks inside.

    ValueError where this Python came without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError(
            "This Python came without pydoc_data.topics, which the English is taken from; give text_windows a text of "
            "your own."
        ) from None
    # some topics hold a page that is a topic of its own
    paragraphs = dict.fromkeys(
        " ".join(paragraph.split()) for page in topics.values() for paragraph in re.split(r"\n\s*\n", page)
    )
    # neither titles, nor code, nor grammar, nor lists
    sentences = re.compile(r"[A-Z][^.]{20,}\.(.*\.)?")
    return "\n\n".join(paragraph for paragraph in paragraphs if sentences.fullmatch(paragraph))
