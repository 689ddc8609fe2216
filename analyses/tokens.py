"""What a task asks of a tokenizer: prompts without trailing specials, one-token answers, where a word lies.

Nothing here searches for token ids. A word's place is found by tokenising the text up to it, and the result
counts only if those tokens are the beginning of the whole text's tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headlens.hooks.model import Model


def tokenizer_of(model: Model | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a model (that of its processor, if it has one), or the tokenizer itself."""
    found: Any = model
    while not isinstance(found, PreTrainedTokenizerBase):
        if getattr(found, "tokenizer", None) is None:
            raise ValueError(
                f"{getattr(model, 'name', type(model).__name__)!r} has no tokenizer, and a task needs one; "
                "load the model with tokenizer=, or give the tokenizer itself."
            )
        found = found.tokenizer
    return found


def text_tokenizer(model: Model) -> Any | None:
    """The tokenizer of a model's text, which a processor carries; None without one."""
    return getattr(model.tokenizer, "tokenizer", model.tokenizer)


def vocabulary_of(model: Model | PreTrainedTokenizerBase) -> int:
    """How many token ids there are: rows of the model's embedding, or entries of a lone tokenizer."""
    if not isinstance(model, Model):
        return len(tokenizer_of(model))
    embedding: Any = model.hf.get_input_embeddings()
    return int(embedding.weight.shape[0])


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, without the special tokens that the tokenizer may add around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of many texts, in one call."""
    return [list(tokens) for tokens in tokenizer([*texts], add_special_tokens=False)["input_ids"]]


def lead_in(tokenizer: PreTrainedTokenizerBase, prepend_bos: bool | None) -> list[int]:
    """The special tokens in front of a prompt: None does what the tokenizer does, True wants one, False none.

    What a tokenizer adds behind the text (T5, BERT) is never kept, because the last token must be the
    prompt's own.
    """
    if prepend_bos is False:
        return []
    plain, dressed = encode(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    starts = range(len(dressed) - len(plain) + 1)
    usual = dressed[: next(at for at in starts if dressed[at : at + len(plain)] == plain)]
    if usual or prepend_bos is None:
        return usual
    bos: Any = tokenizer.bos_token_id
    if bos is None:
        raise ValueError("prepend_bos=True was given, but the tokenizer has no BOS token; leave it out or set one.")
    return [int(bos)]


def added_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> list[int]:
    """The known tokens that `text` adds to the prompt's tokens; none if it changes those, or is not known."""
    before, whole = encode(tokenizer, prompt), encode(tokenizer, prompt + text)
    added = whole[len(before) :]
    unknown = any(token in tokenizer.all_special_ids for token in added)
    return [] if unknown or whole[: len(before)] != before else added


def continuation(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> int | None:
    """The one known token that `text` adds to the prompt's tokens, or None if it does anything else."""
    added = added_tokens(tokenizer, prompt, text)
    return added[0] if len(added) == 1 else None


def answer_token(
    tokenizer: PreTrainedTokenizerBase, prompt: str | list[int], answer: str | int, where: str, noun: str = "answer"
) -> int:
    """The token id of an answer behind its prompt, or ValueError with the pieces it falls into.

    The error starts with `where` and calls the answer by its noun, such as "foil" or "choice".
    """
    if isinstance(answer, int):
        return answer
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: the prompt is given as token ids, so give the {noun} {answer!r} as a token id too.")
    token = continuation(tokenizer, prompt, answer)
    if token is not None:
        return token
    whole = encode(tokenizer, prompt + answer)
    kept = len(encode(tokenizer, prompt))
    if whole[:kept] != encode(tokenizer, prompt):
        raise ValueError(
            f"{where}: the prompt's own tokens change when the {noun} {answer!r} follows; "
            f"end the prompt without a space and start the {noun} with it (' word')."
        )
    pieces = tokenizer.convert_ids_to_tokens(whole[kept:])
    spaced = not answer.startswith(" ") and continuation(tokenizer, prompt, " " + answer) is not None
    hint = f"did you mean {' ' + answer!r}, with the space?" if spaced else "give a word that is one."
    raise ValueError(f"{where}: the {noun} {answer!r} is not one known token but {pieces}; {hint}")


def span_of(tokenizer: PreTrainedTokenizerBase, text: str, start: int, end: int) -> range:
    """The positions, among the text's own tokens, of those that hold text[start:end] and the space in front of it.

    ValueError where they hold anything else.
    """
    before = encode(tokenizer, text[:start].rstrip(" "))
    upto, whole = encode(tokenizer, text[:end]), encode(tokenizer, text)
    if len(upto) == len(before) or upto[: len(before)] != before or whole[: len(upto)] != upto:
        pieces = tokenizer.convert_ids_to_tokens(whole)
        raise ValueError(f"{text[start:end]!r} has no tokens of its own in {text!r}, which splits into {pieces}.")
    return range(len(before), len(upto))


def position_of(tokenizer: PreTrainedTokenizerBase, text: str, start: int, end: int) -> int:
    """The position, among the text's own tokens, of the single token that holds text[start:end]."""
    span = span_of(tokenizer, text, start, end)
    if len(span) != 1:
        pieces = tokenizer.convert_ids_to_tokens(encode(tokenizer, text))
        raise ValueError(f"{text[start:end]!r} is not one token of its own in {text!r}, which splits into {pieces}.")
    return span[0]


def check_twins(tokenizer: PreTrainedTokenizerBase, clean: str, corrupted: str, span: range) -> None:
    """ValueError unless both texts have equally many tokens and differ at positions in the span, and only there."""
    tokens, others = encode(tokenizer, clean), encode(tokenizer, corrupted)
    differing = {at for at, (token, other) in enumerate(zip(tokens, others, strict=False)) if token != other}
    if len(tokens) != len(others) or not differing or not differing <= {*span}:
        raise ValueError(
            f"This tokenizer changes more than the one word, or nothing, between {clean!r} and {corrupted!r}; "
            "build a task from your own prompts with Task.from_pairs."
        )


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> Int64[Tensor, "row pos"]:
    """Rows of token ids as one tensor, the shorter ones filled up on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills up short prompts: the padding token, or else end of text, or else 0."""
    known: list[Any] = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    return next((int(token) for token in known if token is not None), 0)
