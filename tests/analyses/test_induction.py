"""Induction: the answer followed the last token before, and in the corrupted prompt nothing did."""

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import task_tokenizers
import tiny_tokenizers
from headlens.analyses import tasks


@pytest.fixture(params=task_tokenizers.FAMILIES)
def tokenizer(request):
    return task_tokenizers.FAMILIES[request.param]()


def rows(task):
    for prompt in range(len(task)):
        positions = {name: int(array[prompt]) for name, array in task.positions.items()}
        clean, corrupted = task.clean_tokens[prompt].tolist(), task.corrupted_tokens[prompt].tolist()
        yield clean, corrupted, int(task.answers[prompt]), int(task.foils[prompt]), positions


def test_the_answer_followed_the_last_token_at_its_earlier_place(tokenizer):
    for clean, _, answer, foil, at in rows(tasks.induction(tokenizer, n=24, length=29)):
        assert at["END"] == len(clean) - 1
        assert [place for place, token in enumerate(clean) if token == clean[-1]] == [at["A1"], at["END"]]
        assert at["B1"] == at["A1"] + 1 and clean[at["B1"]] == answer and clean.count(answer) == 1
        assert [place for place, token in enumerate(clean) if token == clean[at["C2"]]] == [at["C1"], at["C2"]]
        assert at["D1"] == at["C1"] + 1 and clean[at["D1"]] == foil and clean.count(foil) == 1


def test_runs_of_four_come_again_and_nothing_else(tokenizer):
    for clean, _, _, _, at in rows(tasks.induction(tokenizer, n=24, length=35)):
        for earlier, later in (("A1", "END"), ("C1", "C2")):
            assert clean[at[earlier] - 3 : at[earlier] + 1] == clean[at[later] - 3 : at[later] + 1]
        assert sorted(clean.count(token) for token in {*clean}) == [1] * (len({*clean}) - 8) + [2] * 8


def test_the_corrupted_prompt_has_nothing_to_copy(tokenizer):
    for clean, corrupted, answer, foil, at in rows(tasks.induction(tokenizer, n=24)):
        differing = [place for place, pair in enumerate(zip(clean, corrupted, strict=True)) if len({*pair}) == 2]
        assert differing == [at["A1"]]
        assert corrupted.count(corrupted[-1]) == 1 and corrupted[at["A1"]] not in clean
        assert corrupted.count(answer) == corrupted.count(foil) == 1


@pytest.mark.parametrize("length", [26, 27, 32, 50])
def test_layouts_say_how_far_back_a_and_c_stand(length):
    task = tasks.induction(task_tokenizers.one_digit(), n=12, length=length, prepend_bos=False)
    assert task.lengths.tolist() == [length] * 12
    places = {}
    for label, (*_, at) in zip(task.templates, rows(task), strict=True):
        for name, word in zip(("A1", "C1"), label.replace("A ", "").replace("C ", "").split(", "), strict=True):
            places.setdefault(word, set()).add(at[name])
    (far,), (middle,), (near,) = places["far"], places["middle"], places["near"]
    assert 3 <= far and far + 5 < middle and middle + 5 < near and near + 2 == length - 9


def test_tokens_spell_letters_and_are_not_special():
    tokenizer = tiny_tokenizers.bpe()
    task = tasks.induction(tokenizer, n=50, prepend_bos=True)
    pieces = {*tokenizer.convert_ids_to_tokens(task.clean_tokens[:, 1:].flatten().tolist())}
    assert all(piece.lstrip("Ġ").isalpha() and piece.isprintable() for piece in pieces) and len(pieces) > 300
    assert task.clean_tokens[:, 0].tolist() == [tokenizer.bos_token_id] * 50


def test_special_tokens_that_spell_letters_are_not_drawn():
    backend = Tokenizer.from_str(tiny_tokenizers.characters().backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="a")
    drawn = tasks.induction(tokenizer, n=50, length=26, prepend_bos=False).clean_tokens
    assert tokenizer.convert_tokens_to_ids("b") in drawn and tokenizer.eos_token_id not in drawn


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (25, "length=25 tokens were asked for; an induction prompt needs 26 or more"),
        (90, r"Only \d+ of this tokenizer's \d+ tokens spell letters, and length=90 needs 83 different ones"),
    ],
)
def test_lengths_that_cannot_be_are_refused(length, message):
    with pytest.raises(ValueError, match=message):
        tasks.induction(tiny_tokenizers.characters(), n=1, length=length)
