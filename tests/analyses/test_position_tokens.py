"""The token at each position: counted over the prompts that reach it, and readable whatever the tokenizer."""

from collections import defaultdict

import pytest

from headlens.analyses.position_tokens import position_tokens, readable
from headlens.analyses.task import Task
from headlens.analyses.tokens import encode
from tiny_tokenizers import bpe, characters, unigram, word_pieces

PAIRS = [
    (f"{first} and {second} went to the store, {giver} gave a drink to", " Mary", " John")
    for first, second, giver in [("Mary", "John", "John"), ("Mary", "Tom", "Tom"), ("Anna", "John", "Anna")]
] + [("Then Mary and John went to the store, John gave a drink to", " Mary", " John"), ("Mary", " Mary", " John")]


def task_of(tokenizer):
    return Task.from_pairs(tokenizer, [(text, text.replace("Mary", "Tom"), *answers) for text, *answers in PAIRS])


@pytest.mark.parametrize("tokenizer", [bpe, unigram, word_pieces], ids=lambda maker: maker.__name__)
def test_the_most_common_token_of_the_prompts_that_reach_a_position(tokenizer):
    task = task_of(tokenizer())
    found = position_tokens(task, tokenizer())
    for place, (text, share) in enumerate(found):
        counts = defaultdict(int)
        for prompt in range(len(task)):
            if place < task.lengths[prompt]:
                counts[int(task.clean_tokens[prompt, place])] += 1
        assert share == max(counts.values()) / sum(counts.values())
        assert text in {readable(tokenizer(), token) for token, n in counts.items() if n == max(counts.values())}
    assert len(found) == task.clean_tokens.shape[1]
    # the longest prompt is alone at the end
    assert found[-1] == ["to", 1.0]


def test_ties_go_to_the_earliest_prompt():
    pairs = [(f"When {name} went to", "When Tom went to", " Mary", " John") for name in ("Mary", "John")]
    task = Task.from_pairs(bpe(), pairs)
    assert position_tokens(task, bpe()) == [["When", 1.0], ["Mary", 0.5], ["went", 1.0], ["to", 1.0]]
    assert position_tokens(task.subset([1, 0]), bpe())[1] == ["John", 0.5]


@pytest.mark.parametrize(
    ("tokenizer", "text", "expected"),
    [
        (bpe, " Mary", ["Mary"]),
        (bpe, "\n", ["⏎"]),
        (bpe, "\t", ["⇥"]),
        (bpe, " ", ["␣"]),
        (bpe, "é", ["�", "�"]),
        (bpe, "\x07", ["�"]),
        (bpe, "<end>", ["<end>"]),
        (unigram, "Mary went", ["Mary", "went"]),
        (unigram, "<s>", ["<s>"]),
        (word_pieces, "Mary ☃", ["mary", "[UNK]"]),
        (characters, "a b", ["a", "␣", "b"]),
    ],
)
def test_texts_are_readable(tokenizer, text, expected):
    assert [readable(tokenizer(), token) for token in encode(tokenizer(), text)] == expected


def test_marks_that_turn_or_hide_text_are_shown_as_unprintable():
    tokenizer = characters()
    hostile = max(tokenizer.get_vocab().values()) + 1
    tokenizer.add_tokens(["to\u202e\u200b\n"])
    assert readable(tokenizer, hostile) == "to��⏎"
