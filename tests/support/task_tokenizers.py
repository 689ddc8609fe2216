"""Tokenizers that know the words of every task, and split years in the ways that tokenizers do.

`one_digit` is Llama's kind (<s> in front, a token for each digit), `two_digits` GPT-2's (17 32 in two tokens),
`word_pieces` BERT's (17 ##32, lower case, [CLS] and [SEP]); `whole_years` and `three_digits` have no token for 32.
"""

import re
from functools import cache
from string import ascii_uppercase

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headlens.analyses.templates import read

TASKS = ("ioi", "greater_than", "capitals", "pronouns", "colored_objects", "lettered")
DIGITS = "0123456789"


def task_words() -> list[str]:
    """The words of all templates and lists, each once."""
    texts = [text for task in TASKS for text in read(task)["templates"].values()]
    lists = [read("ioi")[key] for key in ("names", "places", "objects")] + [read("greater_than")["events"]]
    lists += [read("pronouns")["he"], read("pronouns")["she"]]
    colored = read("colored_objects")
    lists += [colored["objects"], colored["colors"], [color.title() for color in colored["colors"]]]
    lettered = read("lettered")
    lists += [*lettered["subjects"].values(), *lettered["contents"].values(), ["Answer", *ascii_uppercase]]
    capitals = read("capitals")["capitals"]
    texts += [word for words in (*lists, capitals.keys(), capitals.values()) for word in words]
    # what stands behind a template's last word, and the pieces of isn't
    texts += ["he she a an"]
    return list(dict.fromkeys(re.findall(r"[A-Za-z]+|[^\w\s{}]", " ".join(texts))))


@cache
def one_digit(unknown: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Words and letters, a space marked by ▁; the words in `unknown` are spelt letter by letter."""
    words = task_words()
    pieces = {f"▁{word}": -8.0 for word in words if word.isalpha() and word not in unknown}
    pieces |= {letter: -20.0 for letter in sorted({*"".join(words), *DIGITS, "▁", "\n"}) if letter not in pieces}
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces.items()], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _byte_level(digits: str, numbers: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that cuts at the pattern `digits` and has learnt these numbers."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(digits), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"a {word}" for word in task_words()] + ["So isn't"] + numbers, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")


@cache
def two_digits() -> PreTrainedTokenizerFast:
    """17 32, with the space in a token of its own."""
    return _byte_level(r"\d{2}", [f"{number:02}" for number in range(100)])


@cache
def whole_years() -> PreTrainedTokenizerFast:
    """1732 in one token."""
    return _byte_level(
        r"\d{1,4}", [f"{number:02}" for number in range(100)] + [f"{year}" for year in range(1000, 2000)]
    )


@cache
def three_digits() -> PreTrainedTokenizerFast:
    """173 2."""
    return _byte_level(r"\d{1,3}", [f"{number:02}" for number in range(1000)])


@cache
def uneven() -> PreTrainedTokenizerFast:
    """17 32, but 1750 to 1759 in one token, and 178 0 to 178 9."""
    pairs = [f"{number:02}" for number in range(100)]
    return _byte_level(r"\d{1,4}", [*["178"] * 500, *pairs * 9, *[f"{year}" for year in range(1750, 1760)] * 3])


@cache
def word_pieces() -> PreTrainedTokenizerFast:
    """Words in lower case, and 17 ##32."""
    pairs = [f"{number:02}" for number in range(100)]
    words = dict.fromkeys(word.lower() for word in task_words())
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *pairs, *(f"##{pair}" for pair in pairs)]
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


FAMILIES = {"one_digit": one_digit, "two_digits": two_digits, "word_pieces": word_pieces}
