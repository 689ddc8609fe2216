"""Receivers as people write them."""

import pytest

from headlens.hooks.paths.receivers import receivers_of
from headlens.hooks.sites import Head
from tiny_models import held


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("logits", ["logits"]),
        (("L2H1", "q"), ["L2H1.q"]),
        ([("L2H1", "q"), (Head(1, 3), "q"), ("2.1", "q")], ["L1H3.q", "L2H1.q"]),
        ([("L1H3", "v"), ("L1H2", "v"), ("L1H1", "k")], ["L1KV0.k", "L1KV1.v"]),
        ([("L1H3", "v"), ("L1H3", "k"), ("L1H3", "q")], ["L1H3.q", "L1KV1.k", "L1KV1.v"]),
        ([["L2H1", "q"]], ["L2H1.q"]),
    ],
)
def test_they_are_nodes_in_order_each_once(given, names):
    assert [str(node) for node in receivers_of(held("llama"), given)] == names


def test_without_groups_every_head_has_its_own_keys():
    assert [str(node) for node in receivers_of(held("gpt2"), [("L1H3", "k"), ("L1H2", "k")])] == ["L1KV2.k", "L1KV3.k"]


@pytest.mark.parametrize("given", ["Logits", [("L1H0", "z")], ["L1H0"], [], [("L1H0",)], ["logits", ("L1H0", "q")]])
def test_others_are_refused(given):
    with pytest.raises(ValueError, match="expected 'logits', or pairs of a head and q, k or v"):
        receivers_of(held("llama"), given)
