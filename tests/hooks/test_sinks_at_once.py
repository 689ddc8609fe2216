"""Sinks of whole prompts found and calibrated in passes of the kernels (in Triton's interpreter), beside blocks."""

import pytest
import torch

from headlens.hooks import one_pass
from headlens.hooks.clock import Clock
from headlens.hooks.groups import Either, First, Recent
from headlens.hooks.intercept import Attention
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.report import Report
from headlens.hooks.row_edits import KnockOut, Temperature
from headlens.hooks.seen_rows import seen_by
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sinks_at_once import with_sinks_found
from headlens.hooks.unscored_rows import unscored_rows
from headlens.kernels.dispatch import forced
from tiny_models import held, inputs_for

pytest.importorskip("triton")

LENGTH = 17


def rule(alpha=1.3, **other):
    return SinkRule("prefill_column", alpha=alpha, **{"min_rows": 3, "min_share": 0.1, **other})


def act(heads="all", donors=None, receivers="rest", pos=None):
    donors = rule() if donors is None else donors
    return Recalibrate(heads, donors=donors, receivers=receivers, beta=0.3, policy="transfer", pos=pos)


EDITS = {
    "transfer": [act()],
    "some heads": [act(["L0H1", "L0H2", "L1H3", "L2H0"])],
    "late rows": [act(pos=[12, 9])],
    "an absolute bound, the first token too": [act(donors=rule(threshold=0.11, first=True))],
    "with the first token": [act(donors=[rule(), "first"])],
    "two rules, to the first token": [act(donors=[rule(2.0), rule(threshold=0.11)], receivers="first")],
    "sinks receive": [act(donors="rest", receivers=Either((rule(), First(1))))],
    "among the newest": [Recalibrate("all", {"a": [Recent(2), rule()]}, {"a": 0.4})],
    "renorm": [Recalibrate("all", {"sinks": rule(), "start": First(1)}, {"sinks": 0.2, "start": 1.5})],
    "raw": [Recalibrate("all", {"sinks": rule()}, {"sinks": 0.2}, policy="raw")],
    "knock-out": [KnockOut("all", groups=rule(alpha=2.0))],
    "tempered": [Temperature("all", 1.5), act()],
    "heads of their own": [act(["L0H0", "L1H1", "L2H1"]), Recalibrate(["L0H3", "L1H2"], {"a": [1]}, {"a": 0.5})],
}


@pytest.fixture
def passes(monkeypatch):
    """The heads of each pass over keys that are in groups."""
    heads, real = [], one_pass.grouped_attention
    monkeypatch.setattr(one_pass, "grouped_attention", lambda *given: heads.append(given[0].shape[1]) or real(*given))
    return heads


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def both(name, edits, **inputs):
    """Logits without edits, in blocks, and with the kernels."""
    model, inputs = held(name), inputs or inputs_for(name, length=LENGTH)
    plain = model(inputs)
    with model.edited(*edits):
        in_blocks = model(inputs)
        with forced("kernel"):
            return plain, in_blocks, model(inputs)


# grouped queries, learned sinks and a window; a soft cap and a window, rows that see the whole text
@pytest.mark.parametrize(
    ("name", "edit"),
    [*(("llama", edit) for edit in EDITS)]
    + [("gpt_oss", edit) for edit in ("transfer", "raw", "two rules, to the first token")]
    + [("gpt2", "transfer"), ("gemma2", "late rows"), ("mistral", "late rows"), ("bert", "transfer")],
)
def test_as_block_by_block(name, edit, passes):
    plain, in_blocks, with_kernel = both(name, EDITS[edit])
    torch.testing.assert_close(with_kernel, in_blocks, rtol=0, atol=5e-5)
    assert passes and (in_blocks - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("side", "name"), [("left", "llama"), ("left", "gemma3"), ("right", "gpt_oss"), ("right", "bert")]
)
def test_padded_prompts(side, name, passes):
    ids = inputs_for(name, length=LENGTH)["input_ids"].clone()
    mask = torch.ones_like(ids)
    mask[0, slice(0, 6) if side == "left" else slice(11, LENGTH)] = 0
    plain, in_blocks, with_kernel = both(name, EDITS["transfer"], input_ids=ids, attention_mask=mask)
    real = mask.bool()
    torch.testing.assert_close(with_kernel[real], in_blocks[real], rtol=0, atol=5e-5)
    moved = (in_blocks - plain).abs().amax(-1)
    assert passes and moved[0][real[0]].max() > 1e-3


@pytest.mark.parametrize(("name", "alpha"), [("llama", 4.5), ("gpt2", 4.0), ("gemma2", 1.5)])
def test_heads_without_a_sink_are_bit_for_bit_the_model(name, alpha, passes):
    """In layer 0, whose input is the model's own; some heads have sinks there, and some have none."""
    model, inputs, strict = held(name), inputs_for(name, length=LENGTH), act("all", donors=rule(alpha))
    site = "blocks.0.attn.hook_z"
    plain = model.record(inputs, names_filter=site)[1][site]
    with model.edited(strict):
        in_blocks = model.record(inputs, names_filter=site)[1][site]
        with forced("kernel"):
            with_kernel = model.record(inputs, names_filter=site)[1][site]
    moved = (in_blocks != plain).any(3)
    still = ~moved.any(1).any(0)
    assert 0 < still.sum() < model.n_heads and passes[0] == (~still).sum()
    assert torch.equal(with_kernel[:, :, still], plain[:, :, still])
    torch.testing.assert_close(with_kernel, in_blocks, rtol=0, atol=1e-5)
    # and the rows in which no head has changed
    rows = ~moved.any(2)
    assert rows.any() and torch.equal(with_kernel[rows], plain[rows])


def test_where_nothing_is_a_sink_nothing_changes(passes):
    plain, _, with_kernel = both("llama", [act(donors=rule(alpha=16.0))])
    assert torch.equal(with_kernel, plain) and not passes


def test_rows_that_nobody_can_receive_in_stay_as_they_are():
    plain, in_blocks, with_kernel = both("llama", [act(receivers=rule(alpha=16.0), donors="rest")])
    assert torch.equal(in_blocks, plain) and torch.equal(with_kernel, plain)


def test_a_mean_at_the_bound_is_left_to_blocks(passes):
    """Sums in another order might decide it otherwise."""
    model, inputs = held("llama"), inputs_for("llama", length=LENGTH)
    site = "blocks.0.attn.hook_pattern"
    pattern = model.record(inputs, names_filter=site)[1][site][:, 2]
    mean = float(pattern[1, :, 5].sum() / (LENGTH - 5))
    for threshold, decided in ((mean, False), (mean * (1 + 1e-4), True), (mean * (1 - 1e-4), True)):
        passes.clear()
        plain, in_blocks, with_kernel = both("llama", [act(["L0H2"], donors=rule(threshold=threshold))])
        torch.testing.assert_close(with_kernel, in_blocks, rtol=0, atol=5e-5)
        assert bool(passes) == decided and not torch.equal(in_blocks, plain)
        assert decided or torch.equal(with_kernel, in_blocks)


def test_cached_steps_know_no_sinks_of_whole_prompts(passes):
    model, ids = held("llama"), inputs_for("llama", length=LENGTH)["input_ids"]
    with pytest.raises(ValueError, match="'prefill_column' .* cannot be had in a cached decode step"):
        with forced("kernel"), model.edited(act()):
            first = model.hf(input_ids=ids[:, :-1], use_cache=True)
            model.hf(input_ids=ids[:, -1:], past_key_values=first.past_key_values)
    assert passes


@pytest.mark.parametrize(("name", "cache"), [("llama", "static"), ("gemma2", "dynamic"), ("gpt_oss", "dynamic")])
def test_generation_behind_an_edited_prompt(name, cache, passes):
    """An edit of some rows of the prompt says nothing of later rows, which read what those rows have become."""
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    settings |= {"output_logits": True, "return_dict_in_generate": True, "attention_mask": mask}
    settings |= {"cache_implementation": "static"} if cache == "static" else {}
    plain = model.hf.generate(input_ids=ids, **settings)
    with model.edited(act(pos=[16, 15])):
        in_blocks = model.hf.generate(input_ids=ids, **settings)
        with forced("kernel"):
            with_kernel = model.hf.generate(input_ids=ids, **settings)
    assert passes and torch.equal(with_kernel.sequences, in_blocks.sequences)
    torch.testing.assert_close(torch.stack(with_kernel.logits), torch.stack(in_blocks.logits), rtol=0, atol=2e-4)
    assert (plain.logits[0] - in_blocks.logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "edits",
    [
        [act(donors=SinkRule("causal_column", alpha=1.3, min_rows=3, min_share=0.1))],
        [act(donors=[rule(), lambda block: block.pattern > 0.4])],
        [act(), KnockOut("all", groups=[2], policy="raw")],
    ],
    ids=["a causal mode", "a function beside it", "two group steps"],
)
def test_what_is_left_to_blocks(edits, passes):
    plain, in_blocks, with_kernel = both("llama", edits)
    assert torch.equal(in_blocks, with_kernel) and not torch.equal(plain, in_blocks) and not passes


def test_reports_and_gradients_go_through_blocks(passes):
    model, inputs, report, by_blocks = held("llama"), inputs_for("llama", length=LENGTH), Report(), Report()
    with model.edited(act(), report=by_blocks):
        model(inputs)
    with forced("kernel"), model.edited(act(), report=report):
        model(inputs)
    assert not passes and report.described() == by_blocks.described()
    with forced("kernel"), torch.enable_grad(), model.edited(act()):
        assert model(inputs).requires_grad
    assert not passes


def test_a_key_in_two_groups_is_refused_where_a_row_sees_it():
    # nearly every key that three rows see
    everything = rule(threshold=1e-4)
    for form in ("twin", "kernel"):
        with pytest.raises(ValueError, match="both have key 12"), forced(form):
            with held("llama").edited(act("L0H1", donors=everything, receivers=[0, 12])):
                held("llama")(inputs_for("llama", length=LENGTH))
    plain, in_blocks, with_kernel = both("llama", [act("L0H1", donors=everything, receivers=[0, 12], pos=[8, 5])])
    torch.testing.assert_close(with_kernel, in_blocks, rtol=0, atol=5e-5)
    assert not torch.equal(plain, in_blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("form", ["kernel", "twin"])
def test_sinks_by_hand(dtype, window, form):
    """From attention in float64, of the inputs as they are: also in half precision."""
    draw, length, heads = torch.Generator().manual_seed(3), 37, (0, 1, 2, 3)
    query, key, value = (torch.randn(2, n, length, 20, generator=draw).to(dtype) for n in (4, 2, 2))
    real = torch.ones(2, length, dtype=torch.bool)
    real[1, :8] = False
    at = torch.arange(length)
    seen = (at <= at[:, None]) & (at > at[:, None] - (window or length)) & real[:, None]
    call = Attention(query, key, value, seen[:, None], 0.35, True, softcap=8.0, sinks=torch.tensor([0.0, 1.0, -1, 2]))
    clock = Clock(real=real)
    block = unscored_rows(call, heads, 0, clock, 0, (0, length))
    wanted = SinkRule("prefill_column", alpha=1.25, min_rows=4, min_share=0.2)
    with forced(form):
        found = with_sinks_found({"donors": wanted, "receivers": "rest"}, call, seen_by(call, clock, 0), block)
    assert found is not None and found["receivers"] == "rest"
    sinks = found["donors"].function(block)
    scores = query.double() @ key.double().repeat_interleave(2, 1).transpose(2, 3) * 0.35
    weights = torch.exp(8 * torch.tanh(scores / 8)) * seen[:, None]
    divisor = weights.sum(-1) + torch.tensor([0.0, 1.0, -1, 2]).double().exp()[:, None]
    for prompt in range(2):
        counts = seen[prompt, real[prompt]].sum(0)
        given = (weights[prompt] / divisor[prompt][..., None])[:, real[prompt]].sum(1)
        first, longest = int(real[prompt].int().argmax()), int(counts.max())
        for head in heads:
            for one in range(length):
                rows = int(counts[one])
                old = rows >= 4 and rows >= 0.2 * longest and one != first
                expected = old and float(given[head, one]) / rows > 1.25 / longest
                assert bool(sinks[prompt, head, 0, one]) == expected, (prompt, head, one)
    assert sinks.any(3).all() and not sinks.all()


def test_heads_that_see_different_keys_are_left_to_blocks():
    query, own = torch.zeros(1, 2, 5, 16), torch.ones(1, 2, 5, 5, dtype=torch.bool).tril()
    own[0, 1, 4, 2] = False
    groups = {"donors": rule(), "receivers": "rest"}
    for mask in (own, own[:, :1]):
        call = Attention(query, query, query, mask, 0.25, True)
        block = unscored_rows(call, (0, 1), 0, Clock(), 0, (0, 5))
        found = with_sinks_found(groups, call, seen_by(call, Clock(), 0), block)
        assert (found is None) == (mask is own)
    assert with_sinks_found({"a": First(1)}, call, seen_by(call, Clock(), 0), block) == {"a": First(1)}
