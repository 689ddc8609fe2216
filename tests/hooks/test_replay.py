"""The replay engine against one whole forward per cell, on every architecture that generates text."""

import pytest
import torch

from headlens.hooks import sweep
from headlens.hooks.model import wrap
from headlens.hooks.sites import Head
from headlens.hooks.sweep import Pairs, Plain, Replayed, why_not_replayed
from tiny_models import GENERATING, held, inputs_for, tiny


def pairs(name, prompts=3, length=11, start=4):
    """Prompts that differ from `start` on, read at two tokens each."""
    base = inputs_for(name, batch=prompts, length=length)["input_ids"]
    source = base.clone()
    source[:, start] = (base[:, start] + 31) % 80 + 4
    source[0, start + 2] = 50
    return Pairs(base, source, start, torch.tensor([[5, 9]] * prompts) + torch.arange(prompts)[:, None])


@pytest.mark.parametrize(
    ("name", "rows"), [*((name, rows) for name in GENERATING for rows in (37, 10**6)), ("llama", 1), ("gemma3", 1)]
)
def test_every_cell_equals_a_plain_forward(name, rows, monkeypatch):
    monkeypatch.setattr(sweep, "ROWS", rows)
    model, both = held(name), pairs(name)
    replayed, plain = Replayed(model, both), Plain(model, both)
    torch.testing.assert_close(replayed.base_logits, plain.base_logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(replayed.source_logits, plain.source_logits, rtol=0, atol=2e-5)
    moved = 0
    # out of order and over several layers at once: cells of a later layer join the batch on its way
    bands = [[Head(0, 2), Head(0, 0)], [Head(2, 1), Head(1, 3), Head(2, 0)], [Head(2, 3), Head(0, 1), Head(1, 2)]]
    for cells in bands:
        for pos in [None, *range(both.base.shape[1])]:
            got, want = (engine.patched(cells, pos) for engine in (replayed, plain))
            torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
            moved += int(((want - plain.base_logits).abs().amax((1, 2)) > 1e-3).sum())
    assert moved > 24


@pytest.mark.parametrize("length", [1, 2, 12])
def test_awkward_lengths(length):
    both = pairs("gemma3", prompts=1, length=length + 2, start=length - 1)
    replayed, plain = Replayed(held("gemma3"), both), Plain(held("gemma3"), both)
    cells = [Head(layer, head) for layer in range(3) for head in range(4)]
    got, want = (engine.patched(cells, None) for engine in (replayed, plain))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_unmoved_cells_cost_no_forward(monkeypatch):
    model, both = held("llama"), pairs("llama")
    engine = Replayed(model, both)
    before = engine.base_logits
    monkeypatch.setattr(sweep, "replay", lambda *args: pytest.fail("an unmoved cell was replayed"))
    assert torch.equal(engine.patched([Head(1, 0), Head(2, 1)], both.start - 1), before.expand(2, -1, -1))
    same = Replayed(model, Pairs(both.base, both.base, both.start, both.read))
    assert torch.equal(same.patched([Head(1, 0), Head(2, 1)], None), before.expand(2, -1, -1))


@pytest.mark.parametrize("pos", [None, 6])
@pytest.mark.parametrize("name", GENERATING)
def test_the_engine_accepts_every_generating_architecture(name, pos):
    assert why_not_replayed(Replayed(held(name), pairs(name)), pos) is None


def test_the_engine_gives_up_where_it_is_not_exact():
    assert "is not causal" in str(why_not_replayed(Replayed(held("bert"), pairs("bert")), None))
    hf = tiny("llama")
    original = hf.model.norm.forward
    # a final norm that looks at the other positions of its input breaks the engine's promise
    hf.model.norm.forward = lambda hidden: original(hidden) + 0.1 * hidden.shape[1]
    assert "is off by" in str(why_not_replayed(Replayed(wrap(hf), pairs("llama")), None))


def test_a_replay_leaves_no_shadow():
    model, both = held("gpt2"), pairs("gpt2")
    Replayed(model, both).patched([Head(0, 0)], None)
    assert not [module for module in model.hf.modules() if "forward" in module.__dict__]
