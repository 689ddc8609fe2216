"""Settings written as TOML are the settings that the standard library reads back."""

import tomllib

import pytest

from headlens.toml_text import toml

AWKWARD = {
    "text": 'a "quoted" \\ back\tslash\nand \x00 \x7f \x1f ünïcode 🙂 \u2028',
    "empty": "",
    "number": -3,
    "large": 10**15,
    "real": 1e-07,
    "whole": 2.0,
    "yes": True,
    "no": False,
    "none": [],
    "mixed": ["S2", 9, "S1..S2"],
    "sets": [["L0H1", "L2H3"], ["L1H0"]],
    "long": [f"template-{at}" for at in range(40)],
    "a key with spaces": 1,
    "": 2,
}


def test_what_is_written_is_read_back():
    settings = {**AWKWARD, "task": AWKWARD, "an odd.table": {"n": 1}}
    read = tomllib.loads(toml(settings))
    assert read == settings
    # 1 == True and 2 == 2.0
    assert [type(value) for value in read["task"].values()] == [type(value) for value in AWKWARD.values()]


def test_numbers_that_are_none():
    read = tomllib.loads(toml({"inf": float("inf"), "less": -float("inf"), "nan": float("nan")}))
    assert read["inf"] == -read["less"] == float("inf") and read["nan"] != read["nan"]


def test_it_is_laid_out_for_readers():
    text = toml({"task": {"name": "ioi", "n": 2}, "model": "gpt2", "sweep": {"axes": ["layer", "pos"]}})
    assert text == 'model = "gpt2"\n\n[task]\nname = "ioi"\nn = 2\n\n[sweep]\naxes = ["layer", "pos"]\n'
    assert toml({"long": ["x" * 60, "y" * 60]}).count("\n") == 4


@pytest.mark.parametrize("value", [None, 1j, [None], b"x"], ids=repr)
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="cannot be written as TOML"):
        toml({"key": value})
