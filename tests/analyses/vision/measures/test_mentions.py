"""Names in text: whole words, the longest name first, other names of one class."""

import pytest

from headlens.analyses.vision.measures.mentions import name_table

TABLE = name_table(
    {"dog": "dog", "dogs": "dog", "puppy": "dog", "hot dog": "hot dog", "hot dogs": "hot dog", "hot dog stand": None}
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog and a puppy, two Dogs.", ["dog", "dog", "dog"]),
        ("a hot dog", ["hot dog"]),
        ("a hot-dog and the dog's bowl", ["hot dog", "dog"]),
        ("a hot dog stand beside hot dogs", ["hot dog"]),
        ("It is hot. Dog days.", ["dog"]),
        ("hot, dog", ["dog"]),
        ("a dogma, a bulldog and puppies", []),
        ("", []),
        ("hot", []),
        ("dog dog dog", ["dog"] * 3),
        ("DOG\nhot\ndog", ["dog", "hot dog"]),
    ],
)
def test_mentions_of_a_text(text, expected):
    assert TABLE.mentions(text) == tuple(expected)


def test_names_are_looked_up_by_their_words():
    assert TABLE.class_of("Hot-Dogs") == "hot dog" and TABLE.class_of("puppy") == "dog"
    assert TABLE.classes == ("dog", "hot dog")
    for name in ("cat", "hot dog stand"):
        with pytest.raises(ValueError, match=f"object '{name}' is none of the names"):
            TABLE.class_of(name)


def test_a_class_names_itself():
    assert name_table(["cup", "wine glass"]).mentions("a wine glass, a cup") == ("wine glass", "cup")
    assert name_table({"mug": "cup"}).mentions("a cup, a mug") == ("cup", "cup")
    assert name_table({"Cup": "vessel"}).names == {"Cup": "vessel", "vessel": "vessel"}


def test_tables_that_say_two_things_or_nothing_are_refused():
    with pytest.raises(ValueError, match="given for two classes"):
        name_table({"hot dog": "food", "hot-dog": "dog"})
    with pytest.raises(ValueError, match="a letter or a digit"):
        name_table(["cup", " - "])
    with pytest.raises(ValueError, match="a letter or a digit"):
        name_table([])
