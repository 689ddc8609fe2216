"""Rows in blocks: however many at a time, the same attention, edits, memories and reports."""

import pytest
import torch

from headlens.hooks.attention_taps import Watch
from headlens.hooks.groups import Massive, TokenIds
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.report import Report
from headlens.hooks.row_blocks import row_blocks
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Site
from headlens.hooks.tapped import tapped
from tiny_models import held, inputs_for

# full and sliding attention, learned sinks, both directions, a bias, and grouped queries behind images
NAMES = ("llama", "gemma3", "gpt_oss", "bert", "t5", "llava")


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(params=[1, 700], ids=lambda most: f"{most}_bytes")
def small_blocks(request, monkeypatch):
    """Blocks of one row, and of a few that divide no length."""
    sizes = []

    def counted(*args, **kwargs):
        for block in row_blocks(*args, **kwargs, most=request.param):
            sizes.append(len(block.queries))
            yield block

    def apply():
        monkeypatch.setattr("headlens.hooks.attention_taps.row_blocks", counted)
        return sizes

    return apply


def sinks(mode, pos=None):
    rule = SinkRule(mode, alpha=1.2, min_rows=2, min_share=0.1)
    heads = ["L0H1", "L0H3", "L2H2"]
    return Recalibrate(heads, donors=rule, receivers="rest", beta=0.3, policy="transfer", pos=pos)


EDITS = {
    "renorm": lambda: Recalibrate(["L0H1", "L1H2"], {"a": [0, 3], "b": [5]}, {"a": 0.2, "b": 3.0}),
    "causal_column": lambda: sinks("causal_column"),
    "prefill_column": lambda: sinks("prefill_column"),
    "late_causal_column": lambda: sinks("causal_column", pos=[9, 8]),
    "row": lambda: sinks("row"),
    "temperature": lambda: Temperature("all", torch.linspace(0.5, 2, 40), pos=[8, 9]),
    "knock_out": lambda: KnockOut("all", edges=[(7, 5), (10, 9), (2, 1)]),
    "force_row": lambda: ForceRow("all", pos=[9, 10], keys=[8, 9]),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", EDITS)
def test_many_blocks_are_one(name, kind, small_blocks):
    model, inputs = held(name), inputs_for(name)
    whole, parts = Report(), Report()
    with model.edited(EDITS[kind](), report=whole):
        expected = model(inputs)
    sizes = small_blocks()
    with model.edited(EDITS[kind](), report=parts):
        got = model(inputs)
    assert len(sizes) > 3 and max(sizes) < 11
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-5)
    assert (got - model(inputs)).abs().max() > 1e-4
    for head, one in whole.heads.items():
        other = parts.heads[head]
        assert (one.rows, one.touched, one.idle) == (other.rows, other.touched, other.idle)
        assert abs(one.moved - other.moved) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "edit",
    [
        sinks("causal_column"),
        sinks("prefill_column"),
        Recalibrate("all", {"a": "first", "b": TokenIds(tuple(range(1, 30)))}, {"a": 0.2}, policy="renorm", pos=9),
        Recalibrate(["L0H2"], {"a": Massive((0, 3), above=1.2)}, {"a": 0.2}),
    ],
    ids=["causal_column", "prefill_column", "tokens", "massive"],
)
def test_many_blocks_of_a_padded_batch(name, side, edit, small_blocks):
    model, ids = held(name), inputs_for(name, length=13)["input_ids"].clone()
    ids[:, 0] = ids[:, 5] = 99
    mask = torch.ones_like(ids)
    mask[1, slice(0, 5) if side == "left" else slice(8, 13)] = 0
    with model.edited(edit):
        expected = model(ids, attention_mask=mask)[mask.bool()]
    small_blocks()
    with model.edited(edit):
        got = model(ids, attention_mask=mask)[mask.bool()]
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", NAMES)
def test_watchers_see_every_row_of_every_head(name, small_blocks):
    model, inputs = held(name), inputs_for(name)
    recorded = model.record(inputs, names_filter="pattern")[1]["blocks.1.attn.hook_pattern"]
    seen = torch.zeros_like(recorded)
    rows = []

    def look(block, pattern):
        assert block.heads == tuple(range(4))
        assert torch.equal(pattern, block.pattern)
        seen[:, :, block.first_row : block.first_row + len(block.queries), block.keys] = pattern
        rows.extend(block.queries.tolist())
        again = [*block.again()]
        assert [row for one in again for row in one.queries.tolist()] == [*range(recorded.shape[2])]
        (same,) = [one for one in again if one.first_row == block.first_row]
        assert torch.equal(same.scores, block.scores)
        assert torch.equal(block.of_heads([1, 3]).pattern, block.pattern[:, [1, 3]])

    small_blocks()
    with tapped(model.hf, model.towers, [Watch(Site("pattern", 1), look, "a test")]):
        logits = model(inputs)
    torch.testing.assert_close(seen, recorded, rtol=0, atol=1e-6)
    assert rows == [*range(recorded.shape[2])]
    assert torch.equal(logits, model(inputs))


def test_some_heads_of_grouped_queries_say_what_they_would():
    """z of a block of some heads, whose values are those of the key/value heads that serve them."""
    model, inputs, said = held("llama"), inputs_for("llama"), {}
    z = model.record(inputs, names_filter="z")[1]["blocks.1.attn.hook_z"]

    def look(block, pattern):
        for heads in ([0], [1, 2], [3], [0, 3], [0, 1, 2, 3]):
            part = block.of_heads(heads)
            said[tuple(heads)] = part.z(part.pattern)

    with tapped(model.hf, model.towers, [Watch(Site("pattern", 1), look, "a test")]):
        model(inputs)
    for heads, part in said.items():
        torch.testing.assert_close(part, z[:, :, [*heads]], rtol=0, atol=1e-5)
