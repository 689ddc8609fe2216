"""Recalibrations in prefill and in every cached step: the same, or refused."""

import pytest
import torch

from headlens.hooks.edits import Call
from headlens.hooks.groups import First, Massive, Recent, TokenIds
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import ForceRow, KnockOut, Temperature
from headlens.hooks.sink_rule import SinkRule
from tiny_models import GENERATING, held, inputs_for

LENGTH, PREFILL = 15, 5


def sinks(mode, pos=None):
    rule = SinkRule(mode, alpha=1.2, min_rows=2, min_share=0.1)
    heads = ["L0H1", "L1H0", "L1H3", "L2H2"]
    return Recalibrate(heads, donors=rule, receivers="rest", beta=0.3, policy="transfer", pos=pos)


def half_of_the_keys(block):
    """A function of the block alone: keys to which a row pays less attention than to the average key."""
    return block.pattern < 1 / block.visible.sum(-1, keepdim=True)


def quiet_below(block):
    """Keys to which the layer below paid little attention in the same row, brought along in the run's memory."""
    notes = block.clock.memory.setdefault("attention below", {})
    below = notes.get((block.layer - 1, block.first_row))
    mean = block.pattern.mean(1, keepdim=True)
    # by absolute position: a sliding window has fewer keys
    notes[block.layer, block.first_row] = torch.nn.functional.pad(mean, (int(block.keys[0]), 0))
    return torch.zeros_like(mean).bool() if below is None else below[..., block.keys] < 0.05


EDITS = {
    "renorm": lambda: Recalibrate("all", {"start": "first", "some": [4, 7]}, {"start": 0.2, "some": 3.0}),
    "raw": lambda: Recalibrate("all", {"start": First(3)}, {"start": 0.2, "rest": 1.3}, policy="raw"),
    "streaming": lambda: Recalibrate(
        "all", donors=TokenIds(tuple(range(50))), receivers=TokenIds(tuple(range(50, 120))), beta=0.1, policy="transfer"
    ),
    "window": lambda: Recalibrate("L1H2", {"kept": [First(1), Recent(3)]}, {"rest": 0.05}),
    "tokens_late": lambda: Recalibrate("all", {"some": TokenIds((5, 9, 31, 48, 60))}, {"some": 0.1}, pos=12),
    "massive": lambda: Recalibrate("all", {"massive": Massive((0, 3), above=1.2)}, {"massive": 0.1}),
    "causal_column": lambda: sinks("causal_column"),
    "late_causal_column": lambda: sinks("causal_column", pos=[13, 12]),
    "row": lambda: sinks("row"),
    "layer_below": lambda: Recalibrate("all", {"quiet": quiet_below}, {"quiet": 4.0}),
    "chosen": lambda: Recalibrate("all", {"low": half_of_the_keys}, {"low": 0.2}),
    "temperature": lambda: Temperature("all", lambda queries: 1 + queries / 10),
    "late_temperature": lambda: Temperature("L1H1", torch.linspace(0.2, 3, 20), pos=[8, 3]),
    "knock_out": lambda: KnockOut("all", edges=[(7, 5), (11, 11), (2, 1)]),
    "force_row": lambda: ForceRow("all", pos=[9, 10], keys=[8, 9]),
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def stepwise(model, ids, chunk=1):
    """Logits of a teacher-forced cached decode: a prefill, then `chunk` tokens at a time."""
    out = model.hf(input_ids=ids[:, :PREFILL], use_cache=True)
    logits = [out.logits]
    for pos in range(PREFILL, ids.shape[1], chunk):
        out = model.hf(input_ids=ids[:, pos : pos + chunk], past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("kind", EDITS)
def test_full_pass_equals_cached_decode(name, kind):
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    with model.edited(EDITS[kind]()):
        whole = model.hf(input_ids=ids, use_cache=False).logits
        steps = stepwise(model, ids)
    torch.testing.assert_close(steps, whole, rtol=0, atol=2e-4)
    moved = (whole - model(ids)).abs().amax((0, 2))
    assert moved.max() > 1e-3
    assert moved[PREFILL:].max() > 1e-3


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("kind", ["causal_column", "massive", "streaming"])
def test_several_tokens_at_a_cached_step(name, kind):
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    with model.edited(EDITS[kind]()):
        whole, chunks = model(ids), stepwise(model, ids, chunk=4)
    torch.testing.assert_close(chunks, whole, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
def test_edits_of_one_layer_remember_their_own_heads(name):
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    others = Recalibrate(["L1H1", "L2H0"], {"some": TokenIds(tuple(range(50)))}, {"some": 0.1}, pos=11)
    with model.edited(sinks("causal_column", pos=[13, 12]), others):
        whole, steps = model(ids), stepwise(model, ids)
    torch.testing.assert_close(steps, whole, rtol=0, atol=2e-4)
    moved = (whole - model(ids)).abs().amax((0, 2))
    assert moved[:11].max() == 0 and moved[11:].min() > 1e-3


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("kind", EDITS)
def test_earlier_rows_never_see_later_tokens(name, kind):
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    changed = ids.clone()
    changed[:, 11:] = (changed[:, 11:] + 17) % 80 + 4
    with model.edited(EDITS[kind]()):
        one, other = model(ids), model(changed)
    torch.testing.assert_close(one[:, :11], other[:, :11], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_prefill_columns_look_ahead_and_are_refused_in_decode(name):
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    changed = ids.clone()
    changed[:, 11:] = (changed[:, 11:] + 17) % 80 + 4
    edit = sinks("prefill_column")
    with model.edited(edit):
        one, other = model(ids), model(changed)
    assert (one[:, :11] - other[:, :11]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"'prefill_column' .* cannot be had in a cached decode step; use mode"):
        with model.edited(edit):
            stepwise(model, ids)
    with pytest.raises(ValueError, match="cannot be had in a cached decode step"), model.edited(edit):
        model.generate(ids, max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=1)


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("kind", ["streaming", "causal_column"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_picks_what_a_full_pass_would(name, kind, cache):
    model, ids = held(name), inputs_for(name, length=6)["input_ids"]
    chosen = {"cache_implementation": "static"} if cache == "static" else {}
    with model.edited(EDITS[kind]()):
        text = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=1, **chosen)
        logits = model(text)
    assert text.shape == (2, 12)
    assert torch.equal(logits[:, 5:-1].argmax(-1), text[:, 6:])


@pytest.mark.parametrize("kind", ["causal_column", "massive", "tokens_late"])
def test_a_static_cache_seen_as_a_whole(kind):
    """Recorded patterns reach behind the newest token there."""
    model, ids = held("llama"), inputs_for("llama", length=13)["input_ids"]
    chosen = {"do_sample": False, "eos_token_id": None, "pad_token_id": 1, "max_new_tokens": 3}
    look = Call(lambda site: site.endswith("hook_pattern"), lambda pattern, hook: None)
    with model.edited(EDITS[kind](), look):
        static = model.generate(ids, cache_implementation="static", **chosen)
        dynamic = model.generate(ids, **chosen)
    assert torch.equal(static, dynamic)


def test_a_decoder_has_its_own_tokens_and_padding():
    """T5's encoder reads other tokens, with other padding."""
    model, inputs = held("t5"), inputs_for("t5")
    own = inputs["decoder_input_ids"]
    at = [(own[prompt] == own[prompt, 3]).nonzero().flatten().tolist() for prompt in range(2)]
    assert at == [[3], [3]]
    mask = torch.ones_like(own)
    mask[1, 6:] = 0
    for given in (inputs, {**inputs, "attention_mask": mask}):
        by_token = Recalibrate("all", {"a": TokenIds(tuple(own[:, 3].tolist()))}, {"a": 0.1}, pos=8)
        by_position = Recalibrate("all", {"a": [3]}, {"a": 0.1}, pos=8)
        with model.edited(by_token):
            got = model(given)
        with model.edited(by_position):
            torch.testing.assert_close(model(given), got, rtol=1e-5, atol=1e-5)
        assert (got - model(given)).abs()[:, 8].amax(-1).min() > 1e-3


def test_generation_of_an_encoder_decoder():
    model, inputs = held("t5"), inputs_for("t5", length=6)
    edit = Recalibrate("all", {"a": TokenIds(tuple(range(60)))}, {"a": 0.1})
    with model.edited(edit):
        text = model.hf.generate(input_ids=inputs["input_ids"], max_new_tokens=6, do_sample=False, eos_token_id=None)
        logits = model({"input_ids": inputs["input_ids"], "decoder_input_ids": text})
    assert torch.equal(logits[:, :-1].argmax(-1), text[:, 1:])
