"""Edits for all samples, or for those that run together."""

import inspect

import pytest

from headlens.analyses.vision.under import edits_for
from headlens.hooks.edits import Gate


def test_edits_for_all_are_the_same_for_some():
    gate = Gate("L1H2", 0.0)
    assert edits_for([gate], [3, 1]) == edits_for((gate,), [0]) == (gate,) and edits_for((), [0]) == ()


def test_a_function_sees_the_indices_in_their_order():
    seen = []

    def under(indices):
        seen.append(indices)
        return [Gate("L0H0", float(at)) for at in indices]

    assert [edit.gamma for edit in edits_for(under, [4, 2])] == [4.0, 2.0] and seen == [[4, 2]]


@pytest.mark.parametrize("under", ["L1H2", Gate("L1H2", 0.0), lambda indices: Gate("L1H2", 0.0)])
def test_what_is_no_list_of_edits_is_refused(under):
    with pytest.raises(ValueError, match="a list of them"):
        # as users' programs call it, without the type checks of tests
        inspect.unwrap(edits_for)(under, [0])
