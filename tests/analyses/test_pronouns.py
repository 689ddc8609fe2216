"""Pronouns: each name asks for its own, and the corrupted prompt for the other."""

import pytest

import task_tokenizers
from headlens.analyses import tasks
from headlens.analyses.templates import read


@pytest.fixture(params=task_tokenizers.FAMILIES)
def tokenizer(request):
    return task_tokenizers.FAMILIES[request.param]()


def test_names_ask_for_their_pronouns_and_stand_where_the_position_says(tokenizer):
    task = tasks.pronouns(tokenizer, n=64, seed=3)
    words = read("pronouns")
    assert set(task.positions) == {"NAME", "END"}
    for prompt, (answer, foil) in enumerate(task.answer_texts):
        assert {answer, foil} == {" he", " she"}
        assert task.templates[prompt].endswith(answer)
        for tokens, pronoun in ((task.clean_tokens, answer), (task.corrupted_tokens, foil)):
            piece = tokenizer.convert_ids_to_tokens([int(tokens[prompt, task.positions["NAME"][prompt]])])[0]
            assert piece.strip("Ġ▁").lower() in {name.lower() for name in words[pronoun.strip()]}
        differing = (task.clean_tokens[prompt] != task.corrupted_tokens[prompt]).nonzero().flatten()
        assert differing.tolist() == [int(task.positions["NAME"][prompt])]


def test_both_genders_come_equally_often(tokenizer):
    answers = [answer for answer, _ in tasks.pronouns(tokenizer, n=32).answer_texts]
    assert answers.count(" he") == answers.count(" she") == 16


def test_names_of_several_tokens_are_left_out():
    words = read("pronouns")
    tokenizer = task_tokenizers.one_digit(tuple(words["he"][2:] + words["she"][:-1]))
    task = tasks.pronouns(tokenizer, n=20, templates="bus-because")
    assert len({clean for clean, _ in task.texts}) == 3


def test_without_a_name_for_one_of_them_there_is_no_task():
    with pytest.raises(ValueError, match=r"Only 0 of the \d+ names for 'she' are single tokens"):
        tasks.pronouns(task_tokenizers.one_digit(tuple(read("pronouns")["she"])), n=2)


def test_without_the_pronouns_there_is_no_task():
    with pytest.raises(ValueError, match=r"Only 1 of the 2 pronouns are single tokens"):
        tasks.pronouns(task_tokenizers.one_digit(("she",)), n=2)


def test_no_name_is_on_both_lists():
    words = read("pronouns")
    assert len({*words["he"], *words["she"]}) == len(words["he"]) + len(words["she"]) >= 80
