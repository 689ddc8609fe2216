"""Small tokenizers of the great families, made in process on the sentences that the tests use.

Each treats the space before a word in its own way: byte-level BPE keeps it in the token (Ġ), the
sentencepiece-like one marks it (▁) and starts every prompt with <s>, WordPiece drops it, lower-cases, and
wraps the text in [CLS] and [SEP].
"""

import re
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headlens.analyses.ioi import all_words


def sentences() -> list[str]:
    """Every template with every word at least once, and each name also behind a template's last word."""
    words = all_words()
    return [
        template.format(
            first=name,
            second=words.names[at - 1],
            S2=name,
            place=words.places[at % len(words.places)],
            object=words.objects[at % len(words.objects)],
        )
        + f" {name}"
        for at, name in enumerate(words.names)
        for template in words.templates.values()
    ]


@cache
def bpe() -> PreTrainedTokenizerFast:
    """GPT-2's kind; no special tokens around the text, and no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<end>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")


@cache
def word_pieces() -> PreTrainedTokenizerFast:
    """BERT's kind: [CLS] in front, [SEP] behind, unknown words become [UNK]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        sentences(), trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


@cache
def unigram(unknown: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Llama's kind: sentencepiece's unigram model over words and letters, <s> in front.

    The words in `unknown` are spelt letter by letter.
    """
    text = " ".join(sentences())
    words = dict.fromkeys(re.findall(r"\w+|[^\w ]", text))
    pieces = {f"▁{word}" if word.isalnum() else word: -8.0 for word in words if word not in unknown}
    pieces |= {letter: -20.0 for letter in sorted({*text} | {"▁"}) if letter not in pieces}
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces.items()]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def characters() -> PreTrainedTokenizerFast:
    """One token a character, so that no name is one token."""
    alphabet = sorted(set("".join(sentences())))
    tokenizer = Tokenizer(
        models.WordLevel({"<unk>": 0, **{letter: at for at, letter in enumerate(alphabet, 1)}}, "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<unk>")


@cache
def bpe_without_bos() -> PreTrainedTokenizerFast:
    """The byte-level one, with no special token at all."""
    return PreTrainedTokenizerFast(tokenizer_object=bpe().backend_tokenizer)


@cache
def word_pieces_of_a_stranger() -> PreTrainedTokenizerFast:
    """WordPiece that knows the templates' words and not a single name."""
    known = {word.lower() for text in all_words().templates.values() for word in re.findall(r"\w+|[^\w ]", text)}
    vocabulary = {piece: at for at, piece in enumerate(["[UNK]", *sorted(known)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
