"""What the page's script is given: numbers that read as the map's own, and names that are the map's own."""

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.numbers import decimals, shown
from headlens.page_data import page_data, steps
from headlens.pictures import pictures


@pytest.mark.parametrize("bound", [0.003, 0.08, 0.44, 1.0, 37.0, 4e4])
def test_numbers_in_steps_are_shown_as_the_numbers_themselves(bound):
    numbers = np.random.default_rng(0).uniform(-bound, bound, 20000).astype(np.float32)
    digits = decimals(bound)
    # halves of the last digit, where rounding turns, and their neighbours
    halves = ((np.arange(-40, 40) + 0.5) * 10.0**-digits).astype(np.float32)
    beside = [np.nextafter(halves, np.float32(side * np.inf)) for side in (-1, 1)]
    numbers = np.concatenate([numbers, *beside])
    numbers = numbers[numbers.astype(float) * 10**digits % 1 != 0.5]
    stored, step = steps(numbers, digits)
    read = [(n + 0.5) * step for n in stored]
    assert [shown(n, digits) for n in read] == [shown(n, digits) for n in numbers.tolist()]
    assert np.abs(np.array(read) - numbers).max() <= step * 0.51


def test_numbers_of_other_sizes_are_given_as_shown():
    numbers = np.array([1.23456e-7, 0, np.nan, -9.999e-8], np.float32)
    assert steps(numbers, None) == ([1.23e-7, 0.0, None, -1.0e-7], None)


def test_infinite_numbers_are_refused():
    with pytest.raises(ValueError, match="infinite"):
        steps(np.array([1.0, np.inf]), 2)


@pytest.mark.parametrize(
    "dims",
    ["layer", "layer head", "layer pos", "layer head pos", "layer head query key", "query key", "head", "head pos"],
)
def test_a_cell_and_its_entry_make_the_name_of_the_map(dims):
    shape = (2, 3, 4, 2)[: len(dims.split())]
    coords = {"pos": [f"at {n}" for n in range(9)][: shape[-1]]} if "pos" in dims else {}
    names = {"name": "n", "units": "u", "sign": "s", "coords": coords}
    headmap = HeadMap(values=np.zeros(shape), dims=tuple(dims.split()), **names)
    data = page_data(pictures(headmap))
    made = [name + entry for name in data["names"] for entry in data["entries"]]
    assert made == [headmap.label(cell) for cell in np.ndindex(shape)]


@pytest.mark.parametrize(
    ("dims", "noun"), [("layer", "layer"), ("layer head pos", "head"), ("layer pos", "cell"), ("pos", "position")]
)
def test_what_a_cell_is(dims, noun):
    sizes = (2,) * len(dims.split())
    headmap = HeadMap(values=np.zeros(sizes), dims=tuple(dims.split()), name="n", units="u", sign="s")
    assert page_data(pictures(headmap))["noun"] == noun
