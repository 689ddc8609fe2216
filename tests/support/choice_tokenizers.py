"""Tokenizers that know the words of every choice task.

`unigrams` is Llama's kind (<s> in front, spaces marked by ▁), `byte_pairs` GPT-2's (spaces and line ends in tokens of
their own kind, nothing in front), `word_pieces` BERT's (lower case, [CLS] and [SEP], no spaces or line ends).
"""

import re
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headlens.analyses.choice_tasks import REGISTRY
from headlens.analyses.templates import read


def texts() -> list[str]:
    """Every template, list and choice of the tasks."""
    found = ["is are person place number date positive negative"]
    for task in REGISTRY:
        for value in read(task).values():
            found += _leaves(value)
    return found


def _leaves(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *_leaves([*value.values()])]
    return [leaf for each in value for leaf in _leaves(each)]


def words() -> list[str]:
    """The words and marks of `texts`, each once."""
    return list(dict.fromkeys(re.findall(r"[A-Za-z]+|[^\w\s{}]", " ".join(texts()))))


@cache
def unigrams(unknown: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Words and letters; the words in `unknown` are spelt letter by letter."""
    pieces = {f"▁{word}": -8.0 for word in words() if word.isalpha() and word not in unknown}
    letters = sorted({*"".join(words()), "▁", "\n"})
    pieces |= {letter: -20.0 for letter in letters if letter not in pieces}
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces.items()], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def byte_pairs() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has learnt each word behind a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"a {word}" for word in words()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")


@cache
def word_pieces() -> PreTrainedTokenizerFast:
    """Whole words in lower case."""
    known = dict.fromkeys(word.lower() for word in words())
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *known]
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


FAMILIES = {"unigrams": unigrams, "byte_pairs": byte_pairs, "word_pieces": word_pieces}
