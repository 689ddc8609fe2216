"""Capitals: twins of equally many tokens, and the capital of each."""

import pytest

import task_tokenizers
from headlens.analyses import tasks
from headlens.analyses.templates import read


@pytest.fixture(params=task_tokenizers.FAMILIES)
def tokenizer(request):
    return task_tokenizers.FAMILIES[request.param]()


def country_in(text):
    """The country that a prompt names; the longest, because "Northern Ireland" contains another one."""
    return max((country for country in read("capitals")["capitals"] if country in text), key=len)


def test_the_answer_is_the_capital_and_the_foil_that_of_the_other_country(tokenizer):
    task = tasks.capitals(tokenizer, n=60, seed=2)
    capital_of = read("capitals")["capitals"]
    for (clean, corrupted), answers in zip(task.texts, task.answer_texts, strict=True):
        country, other = country_in(clean), country_in(corrupted)
        assert country != other and corrupted == clean.replace(country, other)
        assert answers == (f" {capital_of[country]}", f" {capital_of[other]}")


def test_the_position_is_the_last_token_of_the_country(tokenizer):
    task = tasks.capitals(tokenizer, n=60)
    assert set(task.positions) == {"COUNTRY", "END"}
    for prompt, (clean, _) in enumerate(task.texts):
        at = int(task.positions["COUNTRY"][prompt])
        pieces = tokenizer.convert_ids_to_tokens([int(task.clean_tokens[prompt, at])])
        assert pieces[0].strip("Ġ▁").lower() == country_in(clean).split()[-1].lower()
        assert not (task.clean_tokens[prompt] != task.corrupted_tokens[prompt])[at + 1 :].any()


def test_countries_of_several_tokens_meet_their_like():
    task = tasks.capitals(task_tokenizers.one_digit(), n=400)
    countries = [(country_in(clean), country_in(corrupted)) for clean, corrupted in task.texts]
    assert any(" " in country for country, _ in countries)
    assert all(country.count(" ") == other.count(" ") for country, other in countries)


def test_no_clean_prompt_comes_again_before_all_have_come():
    tokenizer = task_tokenizers.one_digit()
    countries = len(read("capitals")["capitals"])
    task = tasks.capitals(tokenizer, n=2 * countries, templates="star")
    clean = [clean for clean, _ in task.texts]
    assert len({*clean[:countries]}) == len({*clean[countries:]}) == countries


def test_countries_that_do_not_fit_are_left_out():
    capital_of = read("capitals")["capitals"]
    kept = ("Paris", "Rome", "Tokyo")
    tokenizer = task_tokenizers.one_digit(tuple(capital for capital in capital_of.values() if capital not in kept))
    task = tasks.capitals(tokenizer, n=30)
    assert {country_in(text) for pair in task.texts for text in pair} == {"France", "Italy", "Japan"}


def test_countries_without_a_like_are_refused():
    capital_of = read("capitals")["capitals"]
    unknown = tuple(capital for capital in capital_of.values() if capital not in ("Paris", "Seoul"))
    with pytest.raises(ValueError, match=r"No two countries .* Task\.from_pairs"):
        tasks.capitals(task_tokenizers.one_digit(unknown), n=2)
