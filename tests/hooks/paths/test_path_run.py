"""Path patching by replay against two whole forwards per sender, on every architecture that generates text."""

import pytest
import torch

from headlens.hooks import sweep
from headlens.hooks.paths.path_run import PathRun
from headlens.hooks.paths.path_stage import Stage
from headlens.hooks.paths.plain_paths import PlainPaths, why_not_by_replay
from headlens.hooks.paths.receivers import receivers_of
from headlens.hooks.reading import Read
from headlens.hooks.sites import Head
from headlens.hooks.sweep import Pairs
from tiny_models import GENERATING, held, inputs_for

LENGTH, START = 11, 4
EVERYWHERE = tuple(range(START, LENGTH))
# Positions with gaps between them, receivers of several layers, and all keys of a layer.
STAGES = {
    "logits": ("logits", (LENGTH - 1,)),
    "one query": ([("L2H1", "q")], (LENGTH - 1,)),
    "two layers": ([("L2H1", "k"), ("L1H0", "v"), ("L2H2", "q")], (5, 8)),
    "everywhere": ([("L2H1", "k"), ("L1H0", "q"), ("L2H3", "v")], EVERYWHERE),
    "all keys": ([(f"L2H{head}", "k") for head in range(4)], (4, 7)),
}


def pairs(name, tokens=True):
    base = inputs_for(name, batch=3, length=LENGTH)["input_ids"]
    other = base.clone()
    other[:, START] = (base[:, START] + 31) % 80 + 4
    read = torch.tensor([[5, 9]] * 3) + torch.arange(3)[:, None]
    return Pairs(base, other, START, Read(read if tokens else None))


def stage_of(model, name, mlps):
    receivers, columns = STAGES[name]
    return Stage(receivers_of(model, receivers), columns, mlps)


def logits(tensor):
    return tensor


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("name", GENERATING)
def test_every_sender_equals_two_plain_runs(name, mlps, monkeypatch):
    model, moved = held(name), 0
    # small batches, so that senders of one layer are split and those of several meet
    monkeypatch.setattr(sweep, "ROWS", 110)
    for case in STAGES:
        both, stage = pairs(name, tokens=case != "two layers"), stage_of(model, case, mlps)
        # out of order
        senders = [Head(layer, head) for layer in (1, 0) for head in (2, 0, 3, 1)]
        got, want = (engine.of(model, both, stage).patched(senders, logits) for engine in (PathRun, PlainPaths))
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5)
        unmoved = PlainPaths.of(model, both, stage).base_logits
        moved += int(((want - unmoved).abs().amax((1, 2, 3)) > 1e-3).sum())
        assert why_not_by_replay(model, both, stage, senders[:2]) is None
    assert moved >= 20


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_base_and_other_run_are_the_plain_ones(mlps):
    model, both = held("gemma2"), pairs("gemma2")
    stage = stage_of(model, "one query", mlps)
    fast, slow = PathRun.of(model, both, stage), PlainPaths.of(model, both, stage)
    torch.testing.assert_close(fast.base_logits, slow.base_logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(fast.other_logits, slow.other_logits, rtol=0, atol=2e-5)


def test_senders_that_cannot_be_heard_change_nothing():
    model, both = held("llama"), pairs("llama")
    for stage in (stage_of(model, "one query", "recomputed"), Stage(receivers_of(model, ("L2H0", "q")), (), "frozen")):
        senders = [Head(2, head) for head in range(4)] if stage.columns else [Head(0, 0)]
        slow = PlainPaths.of(model, both, stage).patched(senders, logits)
        torch.testing.assert_close(slow, slow[:1].expand_as(slow), rtol=0, atol=0)
    fast = PathRun.of(model, both, stage).patched([Head(0, 0)], logits)
    torch.testing.assert_close(fast[0], PathRun.of(model, both, stage).base_logits, rtol=0, atol=0)


def test_the_model_is_left_as_it_was():
    model, both = held("llama"), pairs("llama")
    before = [dict(module.__dict__) for module in model.hf.modules()]
    for mlps in ("recomputed", "frozen"):
        PathRun.of(model, both, stage_of(model, "everywhere", mlps)).patched([Head(0, 1), Head(1, 2)], logits)
    assert [list(module.__dict__) for module in model.hf.modules()] == [list(each) for each in before]


def test_an_engine_that_is_off_is_found_out(monkeypatch):
    model, both = held("llama"), pairs("llama")
    stage = stage_of(model, "everywhere", "recomputed")
    original = PathRun.patched
    monkeypatch.setattr(PathRun, "patched", lambda *args: original(*args) + 1e-2)
    assert "LlamaForCausalLM is off by 0.01" in why_not_by_replay(model, both, stage, [Head(0, 1)])
    monkeypatch.setattr(PathRun, "patched", lambda *args: {}["missing"])
    assert "cannot be replayed (KeyError" in why_not_by_replay(model, both, stage, [Head(0, 1)])
