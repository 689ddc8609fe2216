"""Every way of finding a circuit, on a model whose circuit is known."""

import numpy as np
import pytest

from headlens.analyses.circuits.curves import faithfulness_curve
from headlens.analyses.circuits.find import find_circuit
from headlens.analyses.edges.edge_attribution import attribute_edges
from headlens.analyses.patching import patch_sweep
from planted_circuit import EDGES, HEADS_INSIDE, planted_model, planted_task


@pytest.fixture(scope="module")
def planted():
    return planted_model(), planted_task()


def edges_of(circuit):
    frame = circuit.to_frame()
    return {*zip(frame.sender, frame.receiver, strict=True)}


def test_a_sweep_finds_the_planted_heads(planted):
    circuit = find_circuit(*planted, method="sweep", size=2)
    assert {*map(str, circuit.heads)} == HEADS_INSIDE and circuit.is_of_heads
    order = np.argsort(-np.nan_to_num(circuit.node_scores))[:2]
    assert {str(circuit.wiring.senders[at]) for at in order} == HEADS_INSIDE


@pytest.mark.parametrize(
    ("method", "size"), [("eap", 5), ("eap_ig", 5), ("acdc", None), ("acdc", 12)], ids=lambda each: str(each)
)
def test_edges_are_found_exactly(planted, method, size):
    assert edges_of(find_circuit(*planted, method=method, size=size)) == EDGES


def test_pruning_by_kl_as_in_the_paper(planted):
    assert edges_of(find_circuit(*planted, method="acdc", metric="kl")) == EDGES


def test_a_coarse_threshold_prunes_more(planted):
    coarse = find_circuit(*planted, method="acdc", threshold=10.0)
    assert coarse.n_edges == 0


def test_dead_ends_are_taken_off(planted):
    # the fourth and fifth edges make the first three's chain whole
    assert edges_of(find_circuit(*planted, method="eap", size=2)) <= EDGES
    assert edges_of(find_circuit(*planted, method="eap", size=1)) == set()


def test_the_curve_of_edges_reaches_the_whole_at_the_planted_five(planted):
    model, task = planted
    ranking = attribute_edges(model, task, steps=5)
    curve = faithfulness_curve(model, task, ranking, shares=[1 / 75, 2 / 75, 5 / 75, 0.5])
    assert curve.counts.tolist() == [0, 1, 2, 5, 38, 75]
    assert np.allclose(curve.faithfulness[[0, -1]], [0, 1])
    assert curve.faithfulness[3] == pytest.approx(1, abs=0.01)
    assert curve.faithfulness[1] == pytest.approx(0, abs=0.01)
    # nearly all of the area
    assert curve.cpr > 0.9 and curve.cmd < 0.1


def test_the_curve_of_heads(planted):
    model, task = planted
    curve = faithfulness_curve(model, task, patch_sweep(model, task, direction="noising"), shares=[0.2, 0.34])
    assert curve.to_frame().heads.tolist() == [0, 1, 2, 6]
    assert curve.faithfulness[2] == pytest.approx(1, abs=0.01)
    area = np.trapezoid(curve.faithfulness, [0, 1 / 6, 2 / 6, 1])
    assert curve.cpr == pytest.approx(area)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "swep"}, "sweep"),
        ({"size": 0}, "at least 1"),
        ({"method": "acdc", "threshold": 0.0}, "above 0"),
        ({"method": "eap", "metric": "rank"}, "no gradient"),
    ],
    ids=["method", "size", "threshold", "gradient"],
)
def test_slips_are_named(planted, options, words):
    with pytest.raises(ValueError, match=words):
        find_circuit(*planted, **options)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_shares_are_parts(planted, share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        faithfulness_curve(*planted, patch_sweep(*planted), shares=[share])
