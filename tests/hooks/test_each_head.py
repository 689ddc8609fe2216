"""Each head alone under an edit: replay against whole edited runs, and the gradient against small real steps."""

import pytest
import torch

from headlens.hooks import each_head
from headlens.hooks.each_head import EachHead
from headlens.hooks.groups import Massive
from headlens.hooks.reading import Read
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_edits import KnockOut, Temperature
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Head
from tiny_models import GENERATING, held, inputs_for

HEADS = [Head(layer, head) for layer in range(3) for head in range(4)]


def sinks(heads, beta=0.2):
    rule = SinkRule("causal_column", alpha=1.2, min_rows=3)
    return Recalibrate(heads, donors=rule, receivers="rest", beta=beta, policy="transfer")


EDITS = {
    "sinks": sinks,
    "massive": lambda heads: Recalibrate(
        heads, donors=Massive((0, 3), above=1.5), receivers="rest", beta=0.3, policy="transfer"
    ),
    "temperature": lambda heads: Temperature(heads, 1.7, pos=9),
    "knock-out": lambda heads: KnockOut(heads, edges=[(12, 4), (16, 16)]),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", GENERATING)
def test_each_head_alone_is_the_run_edited_in_that_head(name, edit):
    model, tokens = held(name), inputs_for(name, batch=3, length=19)["input_ids"]
    edit_of = EDITS[edit]
    got = EachHead(model, tokens, edit_of("all"), Read(None)).alone(HEADS)
    with torch.no_grad():
        for head, logits in zip(HEADS, got, strict=True):
            with model.edited(edit_of(head)):
                want = model(tokens)[:, -1]
            torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4)
    # some heads really moved, or equality would say nothing
    assert (got - model(tokens)[:, -1]).abs().max() > 0.001


def test_only_the_tokens_that_are_read():
    model, tokens = held("llama"), inputs_for("llama", batch=2, length=19)["input_ids"]
    read = torch.tensor([[5, 60], [7, 8]])
    whole = EachHead(model, tokens, sinks("all"), Read(None)).alone(HEADS)
    got = EachHead(model, tokens, sinks("all"), Read(read)).alone(HEADS)
    torch.testing.assert_close(got, whole.gather(-1, read.expand(len(HEADS), -1, -1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_the_first_order_is_the_slope_of_real_steps(name):
    # a transfer is linear in beta, so a hundredth of the step to beta = 0.2 is beta = 0.992
    model, tokens = held(name), inputs_for(name, batch=3, length=19)["input_ids"]

    def metric(logits):
        return logits.log_softmax(-1)[:, 7]

    estimated = EachHead(model, tokens, sinks("all"), Read(None)).to_first_order(metric)
    steps = []
    for beta in (0.992, 0.984):
        small = EachHead(model, tokens, sinks("all", beta), Read(None))
        steps.append(small.alone(HEADS).log_softmax(-1)[..., 7] - metric(small.base_logits))
    # two steps, so that the curve's own bend cancels
    slope = 100 * (2 * steps[0] - steps[1] / 2) / 1
    want = torch.stack([estimated[layer] for layer in range(3)], 1).flatten(1)
    torch.testing.assert_close(want.T, slope, rtol=0.02, atol=0.02 * float(want.abs().max()))


def test_heads_outside_the_edit_are_not_there():
    each = EachHead(held("llama"), inputs_for("llama", length=19)["input_ids"], sinks(["L1H0"]), Read(None))
    assert [*each.said] == [1]


def test_on_a_gpu_as_many_heads_as_fit_and_half_as_many_where_they_do_not(monkeypatch):
    model, tokens, sizes = held("llama"), inputs_for("llama", batch=2, length=19)["input_ids"], []
    each, replay = EachHead(model, tokens, sinks("all"), Read(None)), each_head.replay
    whole = each.alone(HEADS)

    def scarce(model, base, entries, *rest):
        sizes.append(sum(map(len, entries.values())))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return replay(model, base, entries, *rest)

    monkeypatch.setattr(each_head, "replay", scarce)
    # for two heads the memory is said to suffice, and then for all
    for rows, expected in ((2 * 2 * 19, {1, 2}), (10**6, {1, 2, 3, len(HEADS) // 2, len(HEADS)})):
        sizes.clear()
        monkeypatch.setattr(each_head, "rows_that_fit", lambda *asked, rows=rows: rows)
        torch.testing.assert_close(each.alone(HEADS), whole, rtol=1e-5, atol=1e-5)
        done = [size for size in sizes if size <= 3]
        # nothing is done twice, and nothing is tried again that was too large
        assert set(sizes) <= expected and sum(done) == len(HEADS) and sizes[-len(done) :] == done
