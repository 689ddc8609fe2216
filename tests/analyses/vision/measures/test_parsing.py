"""Answers as text, with the traps of words that hold other words, and the published rule with its own."""

import pytest

from headlens.analyses.vision.measures.parsing import parse_as_pope, parse_yes_no


@pytest.mark.parametrize(
    "text", ["yes", "Yes.", " YES!", "Yes, there is a dog.", "Yes it is, not a cat though", "\n\nyes"]
)
def test_answers_that_begin_with_yes(text):
    assert parse_yes_no(text) == "yes"


@pytest.mark.parametrize("text", ["no", "No.", "NO", "No, there is a plate.", "Nope", "no\nyes", "No; it is a yes-man"])
def test_answers_that_begin_with_no(text):
    assert parse_yes_no(text) == "no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is no dog in the image.", "no"),
        ("There isn't a dog.", "no"),
        ("There isn\u2019t one.", "no"),
        ("I do not see a dog.", "no"),
        ("I can't see any dog.", "no"),
        ("There is nothing of the kind.", "no"),
        ("There is a dog in the image.", "yes"),
        ("I can see a dog.", "yes"),
        ("The answer is yes.", "yes"),
        ("The answer is: no", "no"),
        ("Is there a dog? Yes.", "yes"),
        ("1. No", "no"),
        ("There is a dog. There is no cat.", "yes"),
        ("There is another dog.", "yes"),
    ],
)
def test_answers_in_a_sentence(text, expected):
    assert parse_yes_no(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "?!.",
        "a table with a chair .",
        "Another knows nothingness notably",
        "yesterday",
        "I do not know.",
        "I'm not sure whether there is a dog.",
        "yes or no",
        "Yes and no.",
        "no yes no",
        "The answer is yes or no",
        "Is there a dog?",
        "No idea.",
        "</s><s>",
        "12345",
    ],
)
def test_what_says_neither_is_never_a_yes(text):
    assert parse_yes_no(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, there is a dog.", "yes"),
        ("No, there is no dog.", "no"),
        ("There is not, I think", "no"),
        ("There is a dog. No cat.", "yes"),
        ("Another one I know", "yes"),
        # its traps
        ("", "yes"),
        ("garbled", "yes"),
        ("NO", "yes"),
        ("no!", "yes"),
        ("No\nYes", "yes"),
        ("There isn't one.", "yes"),
        ("I am not sure", "no"),
        ("Yes, there is no doubt", "no"),
    ],
)
def test_the_published_rule(text, expected):
    assert parse_as_pope(text) == expected
