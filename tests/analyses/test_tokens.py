"""Where words lie among tokens, and whether two prompts differ in one word alone."""

import pytest

import task_tokenizers
from headlens.analyses.tokens import added_tokens, check_twins, encode, encode_all, span_of


def test_a_word_of_several_tokens_has_a_span():
    tokenizer = task_tokenizers.one_digit()
    text = "The year 1732 was long"
    pieces = tokenizer.convert_ids_to_tokens(encode(tokenizer, text))
    span = span_of(tokenizer, text, 9, 13)
    assert "".join(pieces[at] for at in span) == "▁1732" and len(span) == 5
    assert [pieces[at] for at in span_of(tokenizer, text, 11, 13)] == ["3", "2"]


def test_a_word_without_tokens_of_its_own_has_none():
    with pytest.raises(ValueError, match="'32' has no tokens of its own in 'year 1732', which splits into"):
        span_of(task_tokenizers.three_digits(), "year 1732", 7, 9)


@pytest.mark.parametrize(
    ("corrupted", "span"),
    [
        ("In Norway and Cuba", range(3, 4)),
        ("In France and Peru", range(1, 2)),
        ("In Norway and Peru", range(3, 4)),
        ("In France and Saudi Arabia", range(3, 5)),
    ],
    ids=["elsewhere", "elsewhere too", "twice", "longer"],
)
def test_twins_differ_in_the_span_alone(corrupted, span):
    tokenizer = task_tokenizers.one_digit()
    check_twins(tokenizer, "In France and Cuba", "In France and Peru", range(3, 4))
    with pytest.raises(ValueError, match="changes more than the one word, or nothing"):
        check_twins(tokenizer, "In France and Cuba", corrupted, span)


def test_twins_are_not_the_same():
    with pytest.raises(ValueError, match="or nothing"):
        check_twins(task_tokenizers.one_digit(), "In Cuba", "In Cuba", range(1, 2))


def test_added_tokens_leave_the_prompt_as_it_is():
    tokenizer = task_tokenizers.three_digits()
    assert tokenizer.decode(added_tokens(tokenizer, "year 173", "2")) == "2"
    assert added_tokens(tokenizer, "year 17", "32") == []
    assert added_tokens(task_tokenizers.word_pieces(), "year", " xylophone") == []


def test_many_texts_are_encoded_like_one():
    tokenizer = task_tokenizers.word_pieces()
    texts = ["In 1732", "Peter", "the year 17"]
    assert encode_all(tokenizer, texts) == [encode(tokenizer, text) for text in texts]
