"""Edges that were ranked, patched for real."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.edges.edge_attribution import attribute_edges
from headlens.analyses.edges.edge_effects import edge_effects
from headlens.analyses.verification import verify
from planted_circuit import EDGES, planted_model, planted_task


@pytest.fixture(scope="module")
def ranked():
    model, task = planted_model(), planted_task()
    return model, task, attribute_edges(model, task, steps=5, progress=False)


def test_the_first_edges_and_a_sample_are_patched(ranked):
    model, task, estimates = ranked
    found = verify(model, task, estimates, k=5, sample=20, progress=False)
    frame = found.to_frame()
    assert {*zip(frame.sender[:5], frame.receiver[:5], strict=True)} == EDGES
    assert [*frame.ranked[:5].sort_values()] == [1, 2, 3, 4, 5] and (frame.value.abs()[5:] < 1e-3).all()
    assert 20 <= len(frame) <= 25 and found.k == 5 and found.cells == 75
    edges = [*zip(frame.sender, frame.receiver, strict=True)]
    exact = edge_effects(model, task, edges, progress=False)
    assert np.allclose(frame.value, exact.values, atol=1e-6)
    assert np.allclose(frame.estimate, [estimates.of(*edge) for edge in edges])
    # nothing outside the five is as large as the smallest of them
    assert found.overlooked == 0 and 0 < found.at_most < 0.2 and "0 are as large" in found.described()


def test_the_first_few_miss_some(ranked):
    model, task, estimates = ranked
    found = verify(model, task, estimates, k=1, sample=75, progress=False)
    assert found.outside == 74 and len(found.to_frame()) == 75
    # the induction head's edge into the logits is the whole effect
    assert found.overlooked == 0 and found.agreement > 0.3


@pytest.mark.parametrize(("k", "sample"), [(0, 16), (76, 16), (5, 3)])
def test_too_few_or_too_many_are_refused(ranked, k, sample):
    with pytest.raises(ValueError, match="75 cells"):
        verify(*ranked, k=k, sample=sample, progress=False)


def test_a_map_that_does_not_say_what_to_patch_is_refused(ranked):
    model, task, estimates = ranked
    with pytest.raises(ValueError, match="does not say its metric"):
        verify(model, task, replace(estimates, provenance={}), progress=False)
