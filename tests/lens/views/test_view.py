"""view: what is given decides what is shown."""

import numpy as np
import pytest

from drawn_circuits import drawn_circuit
from headlens.analyses.sinks import find_sinks
from headlens.views.explorer import Explorer
from headlens.views.map_view import MapView
from headlens.views.view import view, view_compare
from tiny_models import held, inputs_for
from tiny_tasks import task_of


def test_a_map_is_a_map_view(effects):
    shown = view(effects, selected=[2, 3], order="effect")
    assert isinstance(shown, MapView) and shown.headmap is effects and (shown.label, shown.order) == ("L2H3", "effect")


def test_the_counts_of_sinks_are_a_map():
    sinks = find_sinks(held("llama"), inputs_for("llama", length=20), alpha=1.4, min_rows=3)
    shown = view(sinks)
    assert np.array_equal(shown.headmap.values, sinks.flagged.sum(-1).mean(0).astype(np.float32))


def test_a_map_with_a_model_and_a_task_is_an_explorer(effects):
    shown = view(effects.sel(head=[0, 1, 2, 3]), model=held("llama"), task=task_of(), selected=(2, 3))
    assert isinstance(shown, Explorer) and shown.attention.title == "L2H3"
    for lone in ({"model": held("llama")}, {"task": task_of()}):
        with pytest.raises(ValueError, match="needs both"):
            view(effects, **lone)


def test_a_circuit_is_a_graph(effects):
    shown = view(drawn_circuit(edges=20))
    assert type(shown).__name__ == "GraphView"
    with pytest.raises(ValueError, match="only head maps have linked views"):
        view(drawn_circuit(edges=20), model=held("llama"), task=task_of())
    assert type(view_compare(effects, effects)).__name__ == "CompareView"


@pytest.mark.parametrize("given", [np.zeros((3, 5)), None, "map"])
def test_other_things_are_refused(given):
    with pytest.raises(ValueError, match=f"A {type(given).__name__} was given; view.. shows a HeadMap"):
        view(given)
