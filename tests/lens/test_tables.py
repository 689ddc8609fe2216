"""What does not fit a table is told in one sentence."""

from collections.abc import Sequence

import pytest

from headlens.tables import Table, checked, in_words


class Meal(Table):
    dish: str
    guests: int = 2
    spices: str | list[str] | None = None
    hot: bool = False
    price: float = 1.5


def test_what_fits_is_taken_as_it_is():
    meal = checked(Meal, {"dish": "stew", "spices": ["salt"], "price": 3}, "the menu")
    assert (meal.dish, meal.guests, meal.spices, meal.hot, meal.price) == ("stew", 2, ["salt"], False, 3.0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"dish": "stew", "gests": 3},
            "unknown key 'gests' (did you mean 'guests'?); its keys are dish, guests, spices, hot, price.",
        ),
        ({"dish": "stew", "x": 3}, "unknown key 'x'; its keys are dish, guests, spices, hot, price."),
        ({"guests": 3}, "no 'dish', which must be given; expected text."),
        ({"dish": 3}, "dish = 3; expected text."),
        ({"dish": "stew", "guests": "3"}, 'guests = "3"; expected a whole number.'),
        ({"dish": "stew", "guests": True}, "guests = true; expected a whole number."),
        ({"dish": "stew", "guests": 2.5}, "guests = 2.5; expected a whole number."),
        ({"dish": "stew", "spices": 3}, "spices = 3; expected text or a list of texts."),
        ({"dish": "stew", "spices": ["salt", 3]}, 'spices = ["salt", 3]; expected text or a list of texts.'),
        ({"dish": "stew", "hot": 1}, "hot = 1; expected true or false."),
        ({"dish": "stew", "price": "free"}, 'price = "free"; expected a number.'),
        ({"dish": ["very long"] * 30}, '"very l...; expected text.'),
    ],
)
def test_what_does_not_fit_is_one_sentence(given, sentence):
    with pytest.raises(ValueError) as told:
        checked(Meal, given, "the menu")
    assert str(told.value).startswith("the menu has ") and str(told.value).endswith(sentence)
    assert told.value.__cause__ is None and told.value.__suppress_context__


def test_types_in_words():
    assert in_words(int | str | list[int | str]) == "a whole number or text or a list of whole numbers or texts"
    assert in_words(str | Sequence[str] | None) == "text or a list of texts"
    assert in_words(list[list[str]]) == "a list of lists of texts"
    assert in_words(dict[str, int]) == "a table"
