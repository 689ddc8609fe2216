"""Groups by words and kinds of tokens, on a vocabulary with all of them."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from group_members import expected, members
from headlens.hooks.groups import Kind, TokenIds, Words
from headlens.hooks.model import wrap
from headlens.hooks.row_edits import KnockOut
from headlens.hooks.token_kinds import kind_of, token_kinds
from tiny_models import VOCABULARY, tiny
from tiny_tokenizers import bpe, unigram

TEXTS = {4: ".", 5: ",", 6: "42", 7: "\n", 8: "<end>", 9: "$"}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def reader():
    """A model whose tokens 4 to 9 are no words."""
    vocabulary = {TEXTS.get(index, f"w{index}"): index for index in range(VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="<end>")
    return wrap(tiny("llama"), tokenizer)


def tokens_of(inputs):
    return inputs["input_ids"].tolist()


def ids_with_all_kinds():
    return {"input_ids": torch.tensor([[30, 4, 31, 6, 7, 5, 8, 32, 9, 33], [8, 33, 34, 4, 4, 35, 7, 6, 30, 5]])}


BY_TOKEN = {
    "punctuation": {4, 5, 9},
    "number": {6},
    "newline": {7},
    "special": {0, 8},
    "word": {*range(1, 4), *range(10, 120)},
}


@pytest.mark.parametrize("kind", BY_TOKEN)
def test_keys_by_kind_of_token(reader, kind):
    inputs = ids_with_all_kinds()
    ids = tokens_of(inputs)
    got, visible = members(reader, inputs, kind)
    assert torch.equal(got, expected(visible, lambda prompt, row, key: ids[prompt][key] in BY_TOKEN[kind]))
    assert got.any()
    assert torch.equal(members(reader, inputs, Kind(kind))[0], got)
    assert torch.equal(members(reader, inputs, TokenIds(tuple(BY_TOKEN[kind])))[0], got)


def test_keys_by_words_and_unions_of_them(reader):
    inputs = ids_with_all_kinds()
    ids = tokens_of(inputs)
    got, visible = members(reader, inputs, [Words("w30", ","), "newline", 2])
    assert torch.equal(got, expected(visible, lambda prompt, row, key: ids[prompt][key] in (30, 5, 7) or key == 2))


def test_a_processor_carries_the_tokenizer(reader):
    model = wrap(tiny("llama"), SimpleNamespace(tokenizer=reader.tokenizer))
    inputs = ids_with_all_kinds()
    assert torch.equal(members(model, inputs, "number")[0], members(reader, inputs, "number")[0])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (".", "punctuation"),
        (" ,", "punctuation"),
        (" $", "punctuation"),
        ("_", "punctuation"),
        (" 42", "number"),
        ("\n", "newline"),
        (".\n\n", "newline"),
        ("  ", "space"),
        ("\t", "space"),
        (" the", "word"),
        ("'s", "word"),
        ("3rd", "word"),
        ("é", "word"),
        ("1.5", None),
        ("", None),
        ("\N{REPLACEMENT CHARACTER}", None),
    ],
)
def test_kinds_of_texts(text, kind):
    assert kind_of(text) == kind


@pytest.mark.parametrize("make", [bpe, unigram])
def test_a_vocabulary_by_kind(make):
    tokenizer = make()
    kinds = token_kinds(tokenizer)
    ids = tokenizer(" Mary gave it, then. went", add_special_tokens=False)["input_ids"]
    names = [[kind for kind, group in kinds.items() if token in group.ids] for token in ids]
    texts = [tokenizer.decode([token]).strip() for token in ids]
    assert names == [["punctuation"] if text in (",", ".") else ["word"] if text else ["space"] for text in texts]
    assert {"word", "punctuation", "space"} == {name for (name,) in names}
    assert {*kinds["special"].ids} == {*tokenizer.all_special_ids}
    assert token_kinds(tokenizer) is kinds


def test_words_of_several_tokens_are_refused(reader):
    model = wrap(tiny("llama"), bpe())
    with pytest.raises(ValueError, match=r"' Mary\.' is not one token of this model but \[.*\]; a group has single"):
        with model.edited(KnockOut("L1H1", groups=Words(" Mary."))):
            pass
