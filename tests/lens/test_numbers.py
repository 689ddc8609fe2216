"""How numbers are written: to the precision of their map."""

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.numbers import decimals, reach, shown


@pytest.mark.parametrize(
    ("bound", "number", "text"),
    [
        (0.44, 0.4449, "0.44"),
        (0.44, -0.001, "0.00"),
        (4.4, -1.0, "\N{MINUS SIGN}1.00"),
        (44.0, 4.44, "4.4"),
        (444.0, 44.4, "44"),
        (0.044, 0.0123, "0.012"),
        (4e-7, 1.234e-7, "1.23e\N{MINUS SIGN}07"),
        (4e-7, 0.0, "0"),
        (1.0, np.nan, "missing"),
    ],
)
def test_numbers_are_shown_to_the_precision_of_the_map(bound, number, text):
    assert shown(number, decimals(bound)) == text


def test_the_reach_of_an_empty_map_is_one():
    missing = HeadMap(values=np.full((2, 2), np.nan), dims=("layer", "head"), name="n", units="u", sign="s")
    assert reach(missing) == 1
