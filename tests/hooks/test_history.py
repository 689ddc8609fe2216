"""Edits that depend on what was read before refuse a cache that is not what the run left."""

import pytest
import torch

from headlens.hooks.groups import Massive, TokenIds
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import KnockOut
from headlens.hooks.sink_rule import SinkRule
from tiny_models import held, inputs_for

OUTSIDE = r"holds 5 tokens whose last step was not this run's own, .*; start the run inside the edit"
OTHER = r"not those of the last step in the same order \(beam search changes it\)"


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def sinks(heads="all"):
    rule = SinkRule(alpha=1.2, min_rows=2, min_share=0.1)
    return Recalibrate(heads, donors=rule, receivers="rest", beta=0.3, policy="transfer")


REMEMBERING = {
    "causal_column": sinks,
    "tokens": lambda heads="all": Recalibrate(heads, {"a": TokenIds(tuple(range(60)))}, {"a": 0.1}),
    "massive": lambda heads="all": Recalibrate(heads, {"a": Massive((0, 3), above=1.2)}, {"a": 0.1}),
}
FREE = {
    "first": lambda: Recalibrate("all", {"a": "first"}, {"a": 0.2}),
    "row": lambda: Recalibrate("all", {"a": SinkRule("row", alpha=1.5, min_rows=2)}, {"a": 0.2}),
    "knock_out": lambda: KnockOut("all", edges=[(6, 2), (8, 8)]),
}


def step(model, ids, pos, past):
    return model.hf(input_ids=ids[:, pos : pos + 1], past_key_values=past).logits


def prefill(model, ids):
    return model.hf(input_ids=ids[:, :5], use_cache=True).past_key_values


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_cache_filled_outside_is_refused(name, kind):
    model, ids = held(name), inputs_for(name)["input_ids"]
    past = prefill(model, ids)
    with pytest.raises(ValueError, match=OUTSIDE), model.edited(REMEMBERING[kind]()):
        step(model, ids, 5, past)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_an_edit_that_joins_late_is_refused(kind):
    """Although another edit around it has followed the run from the start."""
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    with model.edited(REMEMBERING["tokens"]("L1H0")):
        past = prefill(model, ids)
        with pytest.raises(ValueError, match=OUTSIDE), model.edited(REMEMBERING[kind]("L1H1")):
            step(model, ids, 5, past)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_skipped_step_is_refused(kind):
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    with model.edited(REMEMBERING[kind]()):
        past = prefill(model, ids)
        step(model, ids, 5, past)
        past.crop(-1)
        with pytest.raises(ValueError, match=OUTSIDE):
            step(model, ids, 6, past)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_the_cache_of_another_run_is_refused(kind):
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    other = inputs_for("llama", seed=4)["input_ids"]
    with model.edited(REMEMBERING[kind]()):
        first = prefill(model, ids)
        prefill(model, other)
        with pytest.raises(ValueError, match=OTHER):
            step(model, ids, 5, first)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_prompts_that_change_places_are_refused(kind):
    """Even where both end in the same token, so that the newest keys of the first layer agree."""
    model, ids = held("llama"), inputs_for("llama")["input_ids"].clone()
    ids[:, 4] = 40
    with model.edited(REMEMBERING[kind](["L0H1"])):
        past = prefill(model, ids)
        past.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(ValueError, match=OTHER):
            step(model, ids, 5, past)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_new_run_begins_anew(kind):
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    other = inputs_for("llama", batch=3, length=8, seed=4)["input_ids"]
    with model.edited(REMEMBERING[kind]()):
        alone = [step(model, other, 5, prefill(model, other)) for _ in range(2)]
        past = prefill(model, ids)
        step(model, ids, 5, past)
        again = step(model, other, 5, prefill(model, other))
    assert torch.equal(alone[0], alone[1]) and torch.equal(alone[0], again)


def beams(model, ids):
    return model.generate(
        ids, max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None, pad_token_id=1, use_cache=True
    )


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("kind", REMEMBERING)
def test_beam_search_with_a_memory_is_refused(name, kind):
    model, ids = held(name), inputs_for(name)["input_ids"]
    with pytest.raises(ValueError, match=f"{OTHER}.*; generate without beams"), model.edited(REMEMBERING[kind]()):
        beams(model, ids)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", FREE)
def test_beam_search_without_a_memory_is_what_it_is_without_a_cache(name, kind):
    model, ids = held(name), inputs_for(name)["input_ids"]
    with model.edited(FREE[kind]()):
        cached = beams(model, ids)
        whole = model.generate(
            ids, max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None, pad_token_id=1, use_cache=False
        )
    assert torch.equal(cached, whole)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_beam_search_without_a_cache_needs_no_memory(kind):
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    with model.edited(REMEMBERING[kind]()):
        text = model.generate(
            ids, max_new_tokens=4, num_beams=3, do_sample=False, eos_token_id=None, pad_token_id=1, use_cache=False
        )
    assert text.shape == (2, 15)


def test_nested_blocks_note_massive_activations_once():
    model, ids = held("llama"), inputs_for("llama")["input_ids"]
    one, other = REMEMBERING["massive"]("L1H0"), REMEMBERING["massive"]("L1H1")

    def run():
        past = prefill(model, ids)
        return torch.cat([step(model, ids, pos, past) for pos in range(5, 11)], 1)

    with model.edited(one, other):
        flat, whole = run(), model(ids)[:, 5:]
    with model.edited(one), model.edited(other):
        nested = run()
    assert torch.equal(nested, flat)
    torch.testing.assert_close(nested, whole, rtol=0, atol=1e-4)
