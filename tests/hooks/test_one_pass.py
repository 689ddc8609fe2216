"""Recalibrations in one pass of the kernel, in Triton's interpreter, beside the same block by block."""

import pytest
import torch

from headlens.hooks import one_pass
from headlens.hooks.clock import Clock
from headlens.hooks.groups import Chosen, First, Recent
from headlens.hooks.intercept import Attention
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.report import Report
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.seen_rows import seen_by
from headlens.hooks.sink_rule import SinkRule
from headlens.kernels.dispatch import forced
from tiny_models import held, inputs_for

pytest.importorskip("triton")

EDITS = {
    "renorm": [Recalibrate(["L0H1", "L1H0"], {"a": [1, 2], "b": [3]}, {"a": 0.2, "b": 3.0, "rest": 0.5})],
    "raw": [Recalibrate("all", {"a": [1, 2]}, {"a": 0.2}, policy="raw", pos=[4, 5])],
    "transfer": [Recalibrate("all", donors=[0, 1], receivers="rest", beta=0.4, policy="transfer")],
    "window": [Recalibrate("all", donors="rest", receivers=[First(1), Recent(2)], beta=0.3, policy="transfer")],
    "knock-out": [KnockOut("L1H1", groups=[1, 2], pos=4)],
    "knock-out, nobody takes it": [KnockOut("all", groups=[0], policy="raw")],
    "forced row": [ForceRow("L1H1", pos=4, keys=[2, 3])],
    "temperature": [Temperature("all", lambda positions: 1 + positions / 10)],
    "several": [Temperature("all", 1.5), Recalibrate("L1H1", {"a": [2]}, {"a": 0.0}, pos=5)],
}
IN_BLOCKS = {
    "a function": [Recalibrate("all", {"a": Chosen(lambda block: block.visible & (block.pattern > 0.3))}, {"a": 0.5})],
    "sinks": [Recalibrate("all", {"a": SinkRule("row", min_rows=1, min_share=0.0)}, {"a": 0.5})],
    "edges": [KnockOut("all", edges=[(4, 2), (5, 1)])],
    "two in a row": [Recalibrate("all", {"a": [1]}, {"a": 0.5}), KnockOut("all", groups=[2], policy="raw")],
    "the newest keys and others": [Recalibrate("all", {"a": Recent(1), "b": First(1)}, {"a": 2.0, "b": 3.0}, pos=5)],
}


@pytest.fixture
def passes(monkeypatch):
    """How often a layer was done in one pass."""
    count, real = [], one_pass.grouped_attention
    monkeypatch.setattr(one_pass, "grouped_attention", lambda *given: count.append(1) or real(*given))
    return count


def both(name, edits, inputs=None):
    """Logits in blocks, and with the kernel."""
    model, inputs = held(name), inputs_for(name) if inputs is None else inputs
    with torch.no_grad(), model.edited(*edits):
        in_blocks = model(inputs)
        with forced("kernel"):
            return in_blocks, model(inputs)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("edit", EDITS)
def test_as_block_by_block(name, edit, passes):
    in_blocks, with_kernel = both(name, EDITS[edit])
    torch.testing.assert_close(with_kernel, in_blocks, rtol=0, atol=5e-5)
    assert passes and not torch.equal(held(name)(inputs_for(name)), in_blocks)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mistral"])
def test_padded_prompts(name, passes):
    inputs = dict(inputs_for(name))
    real = torch.ones_like(inputs["input_ids"])
    real[0, :2] = 0
    in_blocks, with_kernel = both(name, EDITS["transfer"], {**inputs, "attention_mask": real})
    torch.testing.assert_close(with_kernel[real.bool()], in_blocks[real.bool()], rtol=0, atol=5e-5)
    assert passes


def test_cached_steps(passes):
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    with forced("kernel"), torch.no_grad(), model.edited(*EDITS["window"]):
        whole = model(ids)
        first = model.hf(input_ids=ids[:, :-1], use_cache=True)
        last = model.hf(input_ids=ids[:, -1:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(last[:, 0], whole[:, -1], rtol=0, atol=5e-5)
    assert len(passes) == 3 * model.n_layers


@pytest.mark.parametrize("edit", IN_BLOCKS)
def test_what_is_left_to_blocks(edit, passes):
    in_blocks, with_kernel = both("llama", IN_BLOCKS[edit])
    assert torch.equal(in_blocks, with_kernel) and not passes


def test_a_report_sees_blocks(passes):
    model, report = held("llama"), Report()
    with forced("kernel"), torch.no_grad(), model.edited(*EDITS["renorm"], report=report):
        model(inputs_for("llama"))
    assert not passes and "rows of 2 of 2 heads changed" in report.described()


def test_gradients_go_through_blocks(passes):
    model = held("llama")
    with forced("kernel"), model.edited(*EDITS["renorm"]):
        assert model(inputs_for("llama")).requires_grad
    assert not passes


def test_neutral_settings_are_bit_for_bit_the_model():
    model, inputs = held("llama"), inputs_for("llama")
    neutral = [Recalibrate("all", {"a": [0]}, {"a": 1.0}), Temperature("all", 1.0)]
    with forced("kernel"), torch.no_grad():
        plain = model(inputs)
        with model.edited(*neutral):
            assert torch.equal(model(inputs), plain)


@pytest.mark.parametrize("policy", ["renorm", "raw", "transfer"])
def test_rows_that_see_no_key_of_a_group_are_bit_for_bit_the_model(policy):
    if policy == "transfer":
        late = Recalibrate("all", donors=[6], receivers="rest", beta=0.2, policy="transfer")
    else:
        late = Recalibrate("all", {"a": [6]}, {"a": 0.2}, policy=policy)
    plain = held("llama")(inputs_for("llama"))
    in_blocks, with_kernel = both("llama", [late])
    assert torch.equal(with_kernel[:, :6], plain[:, :6]) and not torch.equal(with_kernel[:, 6:], plain[:, 6:])
    torch.testing.assert_close(with_kernel, in_blocks, rtol=0, atol=5e-5)


def test_groups_may_meet_at_a_key_that_no_row_sees():
    edits = [Recalibrate("all", {"a": [1, 7], "b": [2, 7]}, {"a": 0.3, "b": 2.0}, pos=5)]
    in_blocks, with_kernel = both("llama", edits)
    torch.testing.assert_close(with_kernel, in_blocks, rtol=0, atol=5e-5)


def test_a_row_without_keys_is_named():
    with pytest.raises(ValueError, match="left row 0 of L1H1"):
        both("llama", [KnockOut("L1H1", groups=[0])])


def call_with(mask):
    shape = (2, 4, mask.shape[2], 8)
    return Attention(torch.zeros(shape), torch.zeros(2, 2, mask.shape[3], 8), torch.zeros(shape), mask, 1.0, True)


@pytest.mark.parametrize("window", [None, 3])
def test_masks_of_ordinary_kinds_need_not_be_read(window):
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1, :4] = False
    at = torch.arange(9)
    mask = (at <= at[:, None]) & (True if window is None else at > at[:, None] - window)
    mask = (mask & real[:, None]).unsqueeze(1)
    seen = seen_by(call_with(mask), Clock(real=real), 0)
    assert seen.mask is None and seen.window == window
    there = real[:, None, :, None]
    assert torch.equal(seen.allowed(9, 9, mask.device) & there, mask & there)
    mask[0, 0, 5, 2] ^= True
    odd = seen_by(call_with(mask.clone()), Clock(real=real), 0)
    assert torch.equal(odd.allowed(9, 9, mask.device), mask)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"torch.float32 numbers; expected booleans"):
        seen_by(call_with(torch.zeros(2, 1, 4, 4)), Clock(), 0)
