"""Recalibrations in `with` blocks: nested, beside other edits, recorded, broken off, on two models at once."""

import numpy as np
import pytest
import torch

from dense_rows import by_hand, multiplied, renormalised
from headlens.hooks.edits import Call, Gate
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.sink_rule import SinkRule
from tiny_models import held, inputs_for


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_a_recorded_pattern_is_the_recalibrated_one():
    model, inputs = held("llama"), inputs_for("llama")
    edit = Recalibrate("L1H2", {"start": [0]}, {"start": 0.1})
    with model.edited(edit):
        logits = model(inputs)
        recorded, cache = model.run_with_cache(inputs, names_filter=["pattern", "attn_scores"])
    plain = model.record(inputs, names_filter=["pattern", "attn_scores"])[1]
    torch.testing.assert_close(recorded, logits, rtol=0, atol=2e-5)
    assert torch.equal(cache["attn_scores", 1], plain["blocks.1.attn.hook_attn_scores"])
    before, after = plain["blocks.1.attn.hook_pattern"].double(), cache["pattern", 1].double()
    factor = after / before
    # row, key: 0.1 at the first key against all others, where there are others
    np.testing.assert_allclose(factor[:, 2, 1:, 0] / factor[:, 2, 1:, 1], 0.1, rtol=1e-4)
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])


def test_scores_edited_before_and_patterns_edited_after():
    model, inputs = held("gemma2"), inputs_for("gemma2")
    edit = Recalibrate("L1H2", {"start": [0]}, {"start": 0.1})
    sharpen = Call("blocks.1.attn.hook_attn_scores", lambda scores, hook: scores * 1.5)
    halve = Call("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern / 2)
    with model.edited(sharpen, edit, halve):
        got = model(inputs)
    rule = by_hand("L1H2", lambda prompt, row, own: renormalised(own, multiplied(own, {0: 0.1})))
    with model.edited(sharpen, rule, halve):
        expected = model(inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_blocks_nest_and_z_edits_act_behind():
    model, inputs = held("llama"), inputs_for("llama")
    one = Recalibrate(["L0H1", "L1H2"], {"start": [0]}, {"start": 0.1})
    other = Recalibrate("L1H2", {"some": [1, 2]}, {"some": 4.0})
    with model.edited(one, other, Gate("L1H2", 2.0)):
        flat = model(inputs)
    with model.edited(one), model.edited(other), model.edited(Gate("L1H2", 2.0)):
        nested = model(inputs)
        model.record(inputs, names_filter="z")
    with model.edited(one), model.edited(other):
        ungated = model(inputs)
    assert torch.equal(flat, nested)
    assert (ungated - flat).abs().max() > 1e-3


def test_an_inner_block_ends_alone():
    model, inputs = held("llama"), inputs_for("llama")
    outer = Recalibrate("all", {"start": [0]}, {"start": 0.1})
    with model.edited(outer):
        before = model(inputs)
        with model.edited(Recalibrate("all", {"some": [1]}, {"some": 0.1})):
            within = model(inputs)
        assert torch.equal(model(inputs), before)
    assert (within - before).abs().max() > 1e-3


def traces(model):
    hooks = [module for module in model.hf.modules() if module._forward_pre_hooks or module._forward_hooks]
    marks = [name for module in model.hf.modules() for name in module.__dict__ if name.startswith("_headlens")]
    return len(hooks), marks, model.hf.config._attn_implementation


@pytest.mark.parametrize("where", ["edit", "user"])
def test_an_exception_inside_leaves_nothing_behind(where):
    model, inputs = held("llama"), inputs_for("llama")
    plain, before = model(inputs), traces(model)

    def broken(block):
        raise ZeroDivisionError

    group = broken if where == "edit" else SinkRule()
    with (
        pytest.raises(ZeroDivisionError),
        model.edited(Recalibrate("all", {"a": group}, {"a": 0.5}), Gate("L0H1", 2.0)),
    ):
        model(inputs)
        broken(None)
    assert traces(model) == before
    assert not before[1]
    assert torch.equal(model(inputs), plain)


def test_two_models_at_once():
    one, other = held("llama"), held("gpt2")
    inputs = inputs_for("llama")
    edit = Recalibrate("all", {"start": [0]}, {"start": 0.1})
    with one.edited(edit):
        alone = one(inputs)
    plain = other(inputs)
    with one.edited(edit):
        assert torch.equal(other(inputs), plain)
        with other.edited(Recalibrate("L1H1", {"a": SinkRule(alpha=1.2, min_rows=2)}, {"a": 0.2})):
            assert torch.equal(one(inputs), alone)
            assert not torch.equal(other(inputs), plain)
