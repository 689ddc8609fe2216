"""The circuit as a value: what belongs to it, what is pruned, and what its files hold."""

import json

import numpy as np
import pytest

from headlens.analyses.circuits.circuit import Circuit
from headlens.analyses.circuits.eap_json import read_eap_json, write_eap_json
from headlens.analyses.circuits.graph import (
    from_networkx,
    read_graphml,
    read_node_link,
    to_networkx,
)
from headlens.hooks.wiring import Wiring, wiring_of
from tiny_models import held

# two layers of four heads, two of which share a key; the second block is parallel
WIRING = Wiring(4, 2, ("after", "beside"))


def edges(*pairs, wiring=WIRING, **fields):
    """A circuit of the edges named "L0H1>L1H2.q"."""
    senders, receivers = ([str(node) for node in side] for side in (wiring.senders, wiring.receivers))
    kept = np.zeros(wiring.possible.shape, bool)
    for pair in pairs:
        sender, receiver = pair.split(">")
        kept[senders.index(sender), receivers.index(receiver)] = True
    return Circuit(wiring, kept, **fields)


CHAIN = ("embed>L0KV0.v", "L0H1>L1H2.q", "L1H2>logits")


def named(circuit):
    return [str(node) for node in circuit.nodes]


def test_who_reads_whom():
    reads = {f"{s}>{r}" for s in WIRING.senders for r in WIRING.receivers if WIRING.reads(r, s)}
    assert {"embed>L0H0.q", "L0H3>MLP0", "L0H0>L1KV1.k", "MLP0>MLP1", "L1H0>logits", "MLP1>logits"} <= reads
    # heads of one layer do not read each other, nor does a parallel MLP read its heads
    assert not {"L0H0>L0H1.q", "MLP0>L0H0.q", "L1H0>MLP1", "MLP1>MLP1", "L1H0>L0H0.q"} & reads
    assert np.array_equal(WIRING.possible, [[f"{s}>{r}" in reads for r in WIRING.receivers] for s in WIRING.senders])


def test_which_nodes_work():
    assert named(edges(*CHAIN)) == ["embed", "L0H1", "L1H2"]
    assert edges(*CHAIN).heads == ((0, 1), (1, 2))
    assert edges("embed>MLP0", "MLP0>logits").mlps == (0,)


@pytest.mark.parametrize(
    "dead",
    ["L0H3>L1H0.q", "embed>L1H0.q", "embed>MLP1", "L0H2>logits", "MLP0>logits", "MLP0>L1H2.q", "L1H3>logits"],
)
def test_dead_ends_are_pruned(dead):
    assert edges(*CHAIN, dead).pruned() == edges(*CHAIN)


def test_pruning_takes_a_whole_dead_branch():
    assert edges(*CHAIN, "embed>MLP0", "MLP0>L1H0.q").pruned() == edges(*CHAIN)
    assert edges("L0H1>L1H2.q", "L1H2>logits").pruned().n_edges == 0


@pytest.mark.parametrize("live", ["embed>logits", "embed>L1H2.q", "L0H1>L1KV1.v", "L0H0>L1H2.q", "embed>L0KV0.k"])
def test_live_edges_stay(live):
    circuit = edges(*CHAIN, live)
    assert circuit.pruned() == circuit


def test_all_edges_among_nodes():
    circuit = Circuit.of_nodes(WIRING, ["L0H1", "L1H2"], mlps=[1])
    assert named(circuit) == ["embed", "L0H1", "L1H2", "MLP1"]
    frame = circuit.to_frame()
    assert {*frame.receiver[frame.sender == "L0H1"]} == {"L1H2.q", "L1KV1.k", "L1KV1.v", "MLP1", "logits"}
    assert Circuit.of_nodes(WIRING, "all").n_edges == WIRING.possible.sum()


def test_leaving_nodes_out():
    circuit = Circuit.of_nodes(WIRING, ["L0H0", "L0H1", "L1H2"])
    assert circuit.without(["L0H0"]) == Circuit.of_nodes(WIRING, ["L0H1", "L1H2"])
    assert circuit.without(["L0H0", "MLP1"]) == Circuit.of_nodes(WIRING, ["L0H1", "L1H2"], mlps=[0])
    # with both heads that share it, the key goes too
    assert circuit.without(["L0H0", "L0H1"]) == Circuit.of_nodes(WIRING, ["L1H2"])
    with pytest.raises(ValueError, match="L7H0"):
        circuit.without(["L7H0"])


def test_a_circuit_cannot_be_changed():
    circuit = edges(*CHAIN)
    with pytest.raises(ValueError, match="read-only"):
        circuit.kept[0, 0] = True


def test_impossible_edges_and_unknown_nodes_are_refused():
    with pytest.raises(ValueError, match="L0H0.q computes before L1H0 and cannot read it"):
        edges("L1H0>L0H0.q")
    with pytest.raises(ValueError, match="shape"):
        Circuit(WIRING, np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="'L7H0'"):
        edges(*CHAIN, roles={"L7H0": "mover"})


def scored():
    scores = np.where(WIRING.possible, np.arange(WIRING.possible.size).reshape(WIRING.possible.shape) / 7 - 9, np.nan)
    nodes = np.linspace(-1, 1, len(WIRING.senders))
    roles = {"L1H2": "name mover"}
    return edges(*CHAIN, "embed>L0KV0.k", name="planted", scores=scores, node_scores=nodes, roles=roles)


def test_saved_and_loaded_whole(tmp_path):
    circuit = scored()
    circuit.save(tmp_path / "c.safetensors")
    again = Circuit.load(tmp_path / "c.safetensors")
    assert again == circuit and again.roles == circuit.roles and again.name == "planted"
    assert np.array_equal(again.scores, circuit.scores, equal_nan=True)
    assert np.array_equal(again.node_scores, circuit.node_scores)
    (tmp_path / "c.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="damaged"):
        Circuit.load(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "through",
    [
        lambda c, path: from_networkx(c.to_networkx()),
        lambda c, path: (c.to_graphml(path), read_graphml(path))[1],
        lambda c, path: (c.to_node_link(path), read_node_link(path))[1],
    ],
    ids=["networkx", "graphml", "node-link"],
)
def test_graphs_hold_the_whole_circuit(through, tmp_path):
    circuit = scored()
    again = through(circuit, tmp_path / "graph")
    assert again == circuit and again.roles == circuit.roles and again.wiring == WIRING
    assert np.allclose(again.scores[circuit.kept], circuit.scores[circuit.kept])


def test_a_shared_key_is_an_edge_to_each_head_of_the_circuit():
    graph = to_networkx(edges(*CHAIN, "L1H3>logits", "embed>L1KV1.k"))
    assert {*graph.successors("embed")} == {"L0H1", "L1H2", "L1H3"}
    assert graph.edges["embed", "L1H3", "k"]["kv_head"] == 1


def test_a_graph_that_does_not_fit_is_refused():
    graph = to_networkx(scored())
    graph.add_edge("L1H0", "L0H0", key="q")
    with pytest.raises(ValueError, match="L0H0.q computes before L1H0"):
        from_networkx(graph)
    graph.add_edge("embed", "L0H9", key="q")
    with pytest.raises(ValueError, match="embed -> L0H9"):
        from_networkx(graph)
    del graph.graph["mlps"]
    with pytest.raises(ValueError, match="mlps"):
        from_networkx(graph)


def circuit_of(model):
    wiring, random = wiring_of(model), np.random.default_rng(0)
    kept = wiring.possible & (random.random(wiring.possible.shape) < 0.2)
    return Circuit(wiring, kept, scores=np.where(wiring.possible, random.normal(size=kept.shape), np.nan))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_eap_files_hold_every_edge(name, tmp_path):
    model = held(name)
    circuit = circuit_of(model)
    circuit.to_eap(model, tmp_path / "ioi.json")
    again = Circuit.from_eap(model, tmp_path / "ioi.json")
    assert again == circuit and again.name == "ioi"
    assert np.allclose(again.scores, circuit.scores, equal_nan=True)


def test_eap_files_count_a_shared_key_once_a_head(tmp_path):
    model = held("llama")
    wiring = wiring_of(model)
    assert wiring.n_heads > wiring.n_kv_heads
    write_eap_json(circuit_of(model), tmp_path / "g.json", model.d_model)
    data = json.loads((tmp_path / "g.json").read_text())
    sizes = range(wiring.n_layers)
    # EAP-IG's own count: every sender before a layer into q, k and v of each head and its MLP
    before = [1 + layer * (wiring.n_heads + 1) for layer in sizes]
    expected = sum(n * 3 * wiring.n_heads + n + wiring.n_heads for n in before) + 1 + len(sizes) * (wiring.n_heads + 1)
    assert len(data["edges"]) == expected
    assert data["cfg"] == {
        "n_layers": wiring.n_layers,
        "n_heads": wiring.n_heads,
        "parallel_attn_mlp": False,
        "d_model": model.d_model,
    }


def test_eap_files_of_other_models_are_refused(tmp_path):
    model, path = held("llama"), tmp_path / "g.json"
    write_eap_json(circuit_of(model), path, model.d_model)
    data = json.loads(path.read_text())
    for change, words in (
        (lambda d: d["cfg"].update(n_heads=99), "layers of 99 heads"),
        (lambda d: d["edges"].update({"m9->logits": {"score": 0, "in_graph": True}}), "'m9->logits'"),
        (lambda d: d.pop("edges"), "not a graph that EAP-IG wrote"),
    ):
        broken = json.loads(json.dumps(data))
        change(broken)
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=words):
            read_eap_json(model, path)
