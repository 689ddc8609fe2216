"""The replay engine against one whole forward per cell, at every site, on every architecture that generates text."""

from itertools import product

import pytest
import torch

from headlens.hooks import sweep
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.model import wrap
from headlens.hooks.plain import Plain
from headlens.hooks.reading import Read
from headlens.hooks.sites import SITE_AXES, Head
from headlens.hooks.sweep import Pairs, Replayed
from headlens.hooks.trial import why_not_replayed
from tiny_models import GENERATING, held, inputs_for, tiny

SITES = tuple(site for site in SITE_AXES if site != "result")
LENGTH, START = 11, 4


def pairs(name, prompts=3, length=LENGTH, start=START, site="z", last=1, tokens=True, fill=None):
    """Prompts that differ from `start` on, read at two tokens each."""
    base = inputs_for(name, batch=prompts, length=length)["input_ids"]
    other = base.clone()
    other[:, start] = (base[:, start] + 31) % 80 + 4
    other[0, start + 2] = 50
    read = torch.tensor([[5, 9]] * prompts) + torch.arange(prompts)[:, None]
    return Pairs(base, other, start, Read(read if tokens else None, last), site, fill)


def logits(tensor):
    return tensor


def everywhere(both):
    return Rows.everywhere(*both.base.shape)


def cells_of(model, site):
    """Out of order and over several layers at once: cells of a later layer join the batch on its way."""
    if "d_model" in SITE_AXES[site][2:3]:
        return [Cell.of_layer(layer) for layer in (2, 0, 1)]
    heads = model.n_kv_heads if "kv_head" in SITE_AXES[site] else model.n_heads
    singles = [Head(2, 1), Head(0, heads - 1), Head(1, 0)]
    sets = [[Head(1, 1), Head(1, 0)], [Head(2, 1), Head(0, 0), Head(1, 1)]]
    return [Cell.of_heads(some) for some in [*([head] for head in singles), *sets]]


def rows_of(both, site):
    """All positions, single ones, several at once that differ from prompt to prompt, and single entries of patterns."""
    prompts, length = both.base.shape
    mixed = torch.zeros(prompts, length, dtype=torch.bool)
    for prompt in range(prompts):
        mixed[prompt, [START - 1, START + 1 + prompt, length - 2]] = True
    found = [everywhere(both), Rows(mixed), Rows.at(7, prompts, length)]
    return [*found, Rows.at(8, prompts, length, key=START)] if SITE_AXES[site][1] == "head" else found


@pytest.mark.parametrize(("name", "site"), [*product(GENERATING, SITES)])
def test_every_cell_equals_a_plain_forward(name, site, monkeypatch):
    model = held(name)
    if site not in {other for other in SITES if model.layers[0].has(other)}:
        pytest.skip(f"{name} has no {site}")
    # small batches, so that cells of one layer are split and those of several meet
    monkeypatch.setattr(sweep, "ROWS", 100)
    both = pairs(name, site=site)
    replayed, plain = Replayed(model, both), Plain(model, both)
    torch.testing.assert_close(replayed.base_logits, plain.base_logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(replayed.other_logits, plain.other_logits, rtol=0, atol=2e-5)
    moved, cells = 0, cells_of(model, site)
    for rows in rows_of(both, site):
        got, want = (engine.patched(cells, rows, logits) for engine in (replayed, plain))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
        moved += int(((want - plain.base_logits).abs().amax((1, 2, 3)) > 1e-3).sum())
    assert moved >= 5


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_all_tokens_of_several_positions(name, site):
    both = pairs(name, site=site, last=4, tokens=False)
    model = held(name)
    cells = cells_of(model, site)
    for rows in (everywhere(both), Rows.at(8, *both.base.shape)):
        got, want = (engine.patched(cells, rows, logits) for engine in (Replayed(model, both), Plain(model, both)))
        assert got.shape == (len(cells), 3, 4, 120)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_source_that_is_no_run(name, site):
    """Everything differs from the first token on; scores keep what is hidden."""
    fill = lambda layer, base: torch.where(base == -torch.inf, base, layer + 0.5)  # noqa: E731
    both, model = pairs(name, start=0, site=site, fill=fill), held(name)
    cells = cells_of(model, site)
    for rows in rows_of(both, site):
        got, want = (engine.patched(cells, rows, logits) for engine in (Replayed(model, both), Plain(model, both)))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 10**6])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox"])
def test_any_batch_size(name, rows, monkeypatch):
    monkeypatch.setattr(sweep, "ROWS", rows)
    model, both = held(name), pairs(name)
    cells = [Cell.of_heads([Head(layer, head)]) for layer, head in product(range(3), range(4))]
    got, want = (
        engine.patched(cells, everywhere(both), logits) for engine in (Replayed(model, both), Plain(model, both))
    )
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 12])
def test_awkward_lengths(length):
    both = pairs("gemma3", prompts=1, length=length + 2, start=length - 1)
    replayed, plain = Replayed(held("gemma3"), both), Plain(held("gemma3"), both)
    cells = [Cell.of_heads([Head(layer, head)]) for layer in range(3) for head in range(4)]
    got, want = (engine.patched(cells, everywhere(both), logits) for engine in (replayed, plain))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_unmoved_cells_cost_no_forward(monkeypatch):
    model, both = held("llama"), pairs("llama")
    engine = Replayed(model, both)
    before, cells = engine.base_logits, [Cell.of_heads([Head(1, 0)]), Cell.of_heads([Head(2, 1)])]
    monkeypatch.setattr(sweep, "replay", lambda *args: pytest.fail("an unmoved cell was replayed"))
    earlier = Rows.at(both.start - 1, *both.base.shape)
    assert torch.equal(engine.patched(cells, earlier, logits), before.expand(2, -1, -1, -1))
    same = Replayed(model, Pairs(both.base, both.base, both.start, both.read))
    assert torch.equal(same.patched(cells, everywhere(both), logits), before.expand(2, -1, -1, -1))


@pytest.mark.parametrize("pos", [None, 6])
@pytest.mark.parametrize("name", GENERATING)
def test_the_engine_accepts_every_generating_architecture(name, pos):
    both = pairs(name)
    rows = everywhere(both) if pos is None else Rows.at(pos, *both.base.shape)
    cells = [Cell.of_heads([Head(0, 0)]), Cell.of_heads([Head(2, 3)])]
    assert why_not_replayed(Replayed(held(name), both), cells, rows) is None


def test_the_engine_gives_up_where_it_is_not_exact():
    cells, rows = [Cell.of_heads([Head(0, 0)])], Rows.everywhere(3, LENGTH)
    assert "is not causal" in str(why_not_replayed(Replayed(held("bert"), pairs("bert")), cells, rows))
    hf = tiny("llama")
    original = hf.model.norm.forward
    # a final norm that looks at the other positions of its input breaks the engine's promise
    hf.model.norm.forward = lambda hidden: original(hidden) + 0.1 * hidden.shape[1]
    assert "is off by" in str(why_not_replayed(Replayed(wrap(hf), pairs("llama")), cells, rows))


def test_a_replay_leaves_no_shadow():
    model, both = held("gpt2"), pairs("gpt2")
    Replayed(model, both).patched([Cell.of_heads([Head(0, 0)])], everywhere(both), logits)
    assert not [module for module in model.hf.modules() if "forward" in module.__dict__]
