"""HeadCard: the numbers of the chosen head, and the edges that it is strongest in."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.headmap import HeadMap
from headlens.hooks.wiring import wiring_of
from headlens.views.head_card import HeadCard
from tiny_models import held


@pytest.fixture
def facts():
    values = np.random.default_rng(0).normal(size=(3, 4))
    values[1, 2] = np.nan
    entropy = HeadMap(values=values, dims=("layer", "head"), name="n", units="nats", sign="s")
    return {"entropy": entropy, "mine": replace(entropy, values=values.T, dims=("head", "layer"), coords={}, units="")}


def test_a_card_tells_of_the_head_that_is_selected(facts):
    card = HeadCard(facts, [2, 0], [3, 1, 0])
    assert (card.lines(), card.name) == ({}, None)
    card.selected = [0, 1]
    value = pytest.approx(facts["entropy"].values[2, 1])
    assert card.name == "L2H1" and card.lines() == {"entropy": value, "mine": value}
    with pytest.raises(ValueError, match=r"inside \(2, 3\)"):
        card.selected = [2, 0]


def test_missing_is_missing(facts):
    card = HeadCard(facts, range(3), range(4), selected=[1, 2])
    assert all(np.isnan(value) for value in card.lines().values())
    svg = card._repr_mimebundle_()[0]["image/svg+xml"]
    assert svg.count("missing") == 2 and "L1H2" in svg


def test_other_numbers_can_be_told(facts):
    card = HeadCard(facts, range(3), range(4), selected=[0, 1])
    card.tell({"entropy": replace(facts["entropy"], values=2 * facts["entropy"].values)})
    assert card.lines() == {"entropy": pytest.approx(2 * facts["entropy"].values[0, 1])}


def test_the_strongest_edges_of_each_head_are_listed(facts):
    wiring = wiring_of(held("llama"))
    values = np.random.default_rng(1).normal(size=wiring.possible.shape)
    edges = EdgeMap(np.where(wiring.possible, values, np.nan), wiring, "n", "logits", "s")
    card = HeadCard(facts, range(3), range(4), edges)
    # the slow way: through every edge by its name, with heads 2 and 3 reading keys and values 1
    ports = {"L1H2.q": "q", "L1KV1.k": "k", "L1KV1.v": "v"}
    every = []
    for sender, receiver, value in edges.to_frame().itertuples(index=False):
        if sender == "L1H2":
            every.append(("out", receiver, value))
        if receiver in ports:
            every.append(("in", f"{sender} ({ports[receiver]})", value))
    expected = sorted(every, key=lambda edge: -abs(edge[2]))[:6]
    assert {way for way, _, _ in expected} == {"in", "out"}
    assert [tuple(edge) for edge in card.data["edges"]["L1H2"]] == [
        (*edge[:2], pytest.approx(edge[2])) for edge in expected
    ]
    assert card.data["units"] == "logits" and len(card.data["edges"]) == 12
