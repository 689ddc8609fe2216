"""EdgeMap: names, order, what is missing, and files."""

import json

import numpy as np
import pytest

from headlens.analyses.edges.edge_map import EdgeMap
from headlens.hooks.wiring import Wiring

WIRING = Wiring(n_heads=3, n_kv_heads=1, mlps=("after", "none"))
N_EDGES = 1 * 5 + 4 + 5 * 5 + 8


def edge_map(**changed):
    values = np.arange(WIRING.possible.size, dtype=np.float32).reshape(WIRING.possible.shape)
    values[::2] *= -1
    fields = {"name": "edge effect", "units": "logits", "sign": "Positive means clean.", "provenance": {"seed": 3}}
    return EdgeMap(**{"values": np.where(WIRING.possible, values, np.nan), "wiring": WIRING, **fields, **changed})


def test_rows_and_columns_are_named_in_the_order_of_the_wiring():
    found = edge_map()
    assert found.senders == ("embed", "L0H0", "L0H1", "L0H2", "MLP0", "L1H0", "L1H1", "L1H2")
    assert found.receivers[:6] == ("L0H0.q", "L0H1.q", "L0H2.q", "L0KV0.k", "L0KV0.v", "MLP0")
    assert found.receivers[-1] == "logits" and found.values.shape == (8, 12)
    assert found.label((4, 6)) == "MLP0 -> L1H0.q" and found.of("MLP0", "L1H0.q") == found.values[4, 6]
    assert repr(found) == f"EdgeMap('edge effect': {N_EDGES} of {N_EDGES} edges)"


def test_the_largest_edges_come_first_whatever_their_sign():
    top = edge_map().top(3)
    assert [*top.columns] == ["sender", "receiver", "value"]
    assert top.to_numpy().tolist() == [["L1H2", "logits", 95], ["L1H1", "logits", -83], ["L1H0", "logits", 71]]


def test_every_edge_has_a_row_and_what_was_not_measured_is_missing():
    values = edge_map().values.copy()
    values[7, 11] = np.nan
    found = edge_map(values=values)
    frame = found.to_frame()
    assert (
        len(frame) == N_EDGES
        and frame.value.isna().sum() == 1
        and frame[["sender", "receiver"]].duplicated().sum() == 0
    )
    for row in frame.sample(9, random_state=0).itertuples():
        assert found.of(row.sender, row.receiver) == row.value or np.isnan(row.value)
    assert found.top(1).sender[0] == "L1H1" and len(found.top(1000)) == N_EDGES - 1
    assert repr(found).endswith(f"{N_EDGES - 1} of {N_EDGES} edges)")


def test_heads_add_up_what_leaves_them():
    values = edge_map().values.copy()
    values[7, 11] = np.nan
    heads = edge_map(values=values).heads()
    assert heads.dims == ("layer", "head") and heads.values.shape == (2, 3) and heads.units == "logits"
    assert heads.values[0, 1] == np.nansum(values[2]) and heads.values[1, 0] == values[5, 11]
    # a sum of which a part is missing is missing
    assert np.isnan(heads.values[1, 2])


def test_a_saved_map_comes_back_whole_and_equal_maps_make_equal_bytes(tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    edge_map().save(first)
    found = EdgeMap.load(first)
    found.save(second)
    assert first.read_bytes() == second.read_bytes()
    np.testing.assert_array_equal(found.values, edge_map().values)
    assert found.wiring == WIRING and json.loads(json.dumps(found.described())) == edge_map().described()


def test_files_of_another_kind_and_damaged_ones_are_refused(tmp_path):
    heads, edges = tmp_path / "heads.safetensors", tmp_path / "edges.safetensors"
    edge_map().heads().save(heads)
    with pytest.raises(ValueError, match="holds no EdgeMap"):
        EdgeMap.load(heads)
    edge_map().save(edges)
    data = bytearray(edges.read_bytes())
    data[-1] ^= 1
    edges.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        EdgeMap.load(edges)


def test_a_map_cannot_be_changed():
    given = edge_map().values.copy()
    found = edge_map(values=given)
    given[0, 0] = 5
    assert found.values[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        found.values[0, 0] = 5


def test_values_that_are_no_edges_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 12\) were given; this wiring has 8 senders and 12 receivers"):
        edge_map(values=np.zeros((3, 12)))
    values = edge_map().values.copy()
    values[5, 0] = 0
    with pytest.raises(ValueError, match="no edge L1H0 -> L0H0.q"):
        edge_map(values=values)


def test_unknown_edges_are_refused():
    with pytest.raises(ValueError, match="no sender 'MLP9'"):
        edge_map().of("MLP9", "logits")
    with pytest.raises(ValueError, match="no receiver 'L1H0'.*did you mean"):
        edge_map().of("L0H0", "L1H0")
    with pytest.raises(ValueError, match=r"no edge L1H0 -> L1H1\.q"):
        edge_map().of("L1H0", "L1H1.q")
