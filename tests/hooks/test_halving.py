"""Memory that runs out, by functions that say so above a size of their own."""

from dataclasses import replace

import pytest
import torch

from headlens.hooks import sweep
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.halving import batches, in_batches, within_memory
from headlens.hooks.plain import Plain
from headlens.hooks.sites import Head
from headlens.hooks.trial import why_not_replayed
from small_engines import engine, every_head
from tiny_models import held


def short_of_memory(most, done, tried):
    def do(some):
        tried.append(len(some))
        if len(some) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.extend(some)

    return do


@pytest.mark.parametrize(("count", "limit"), [(0, 3), (1, 3), (7, 3), (12, 5), (12, 100)])
def test_batches_are_whole_small_enough_and_nearly_equal(count, limit):
    found = batches([*range(count)], limit)
    assert [item for some in found for item in some] == [*range(count)]
    sizes = {len(some) for some in found}
    assert not sizes or (max(sizes) <= limit and max(sizes) - min(sizes) <= 1 and len(found) == -(-count // limit))


@pytest.mark.parametrize("most", [1, 2, 3, 5, 11])
def test_what_does_not_fit_is_halved_and_nothing_is_done_twice(most):
    done, tried = [], []
    left = in_batches([*range(23)], 11, short_of_memory(most, done, tried), "one")
    assert done == [*range(23)]
    failed = [size for size in tried if size > most]
    assert failed == sorted(failed, reverse=True) and len(failed) <= 4
    assert left == (11 if most == 11 else (failed[-1] + 1) // 2)
    # once halved, no later batch is larger again
    last = max(at for at, size in enumerate(tried) if size > most) if failed else -1
    assert max(tried[last + 1 :]) <= left


def test_a_single_item_that_does_not_fit_is_one_sentence_and_keeps_what_is_done():
    done = []

    def do(some):
        if 3 in some:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.extend(some)

    with pytest.raises(
        ValueError, match=r"memory does not hold one patched cell; let fewer prompts run at once"
    ) as info:
        in_batches([*range(6)], 2, do, "one patched cell")
    assert done == [0, 1, 2] and isinstance(info.value.__cause__, torch.OutOfMemoryError)


def test_runs_that_do_not_fit_are_the_same_sentence():
    with pytest.raises(ValueError, match="does not hold 3 prompts of 9 tokens"), within_memory("3 prompts of 9 tokens"):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def replay_of_at_most(most, tried, monkeypatch):
    replay = sweep.replay

    def scarce(model, base, entries, *rest):
        tried.append(sum(map(len, entries.values())))
        if tried[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return replay(model, base, entries, *rest)

    monkeypatch.setattr(sweep, "replay", scarce)


def test_an_engine_goes_on_with_half_as_many_cells_and_remembers(monkeypatch):
    model, tried = held("llama"), []
    own, cells, rows = engine(model), every_head(model), Rows.everywhere(3, 13)
    whole = own.patched(cells, rows, lambda logits: logits)
    replay_of_at_most(4, tried, monkeypatch)
    found = own.patched(cells, rows, lambda logits: logits)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert tried == [12, 6, 3, 3, 3, 3] and own.machine.most_rows == 3 * 3 * 8
    tried.clear()
    own.patched(cells, rows, lambda logits: logits)
    assert tried == [3, 3, 3, 3]
    # half the rows of a cell: twice the cells
    tried.clear()
    own.patched(cells, Rows.at(9, 3, 13), lambda logits: logits)
    assert tried[0] == 6


def test_a_metric_that_runs_out_of_memory_is_asked_about_fewer_cells():
    model = held("llama")
    own, cells, rows = engine(model), every_head(model), Rows.everywhere(3, 13)

    def measure(logits):
        if len(logits) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return logits[..., 0].sum(-1)

    whole = own.patched(cells, rows, lambda logits: logits[..., 0].sum(-1))
    torch.testing.assert_close(own.patched(cells, rows, measure), whole, rtol=0, atol=1e-5)


def test_too_little_memory_is_not_taken_for_an_architecture_that_cannot_be_replayed(monkeypatch):
    own, cells, rows = engine(held("llama")), [Cell.of_heads([Head(0, 0)])], Rows.everywhere(3, 13)
    with monkeypatch.context() as short:
        replay_of_at_most(0, [], short)
        with pytest.raises(ValueError, match="one patched cell of 3 prompts of 13 tokens"):
            why_not_replayed(own, cells, rows)

    def fails(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Plain, "patched", fails)
    with pytest.raises(ValueError, match="whole forwards of one prompt of 13 tokens"):
        why_not_replayed(own, cells, rows)


def test_a_prompt_whose_whole_forward_does_not_fit_is_the_same_sentence(monkeypatch):
    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    plain = Plain(held("llama"), engine(held("llama")).pairs)
    monkeypatch.setattr(type(plain.model.hf.model), "forward", fails)
    with pytest.raises(ValueError, match="does not hold a whole forward of one prompt of 13 tokens; let fewer"):
        plain.patched(every_head(plain.model), Rows.everywhere(3, 13), lambda logits: logits)


@pytest.mark.parametrize("fill", [None, lambda layer, base: base.flip(0)], ids=["other run", "filled"])
@pytest.mark.parametrize("tokens", [True, False])
def test_whole_forwards_go_on_with_half_as_many_prompts_and_remember(tokens, fill, monkeypatch):
    model, tried, cells = held("gemma2"), [], [Cell.of_heads([Head(0, 1), Head(2, 3)]), Cell.of_heads([Head(1, 2)])]
    pairs = replace(engine(model, prompts=7, tokens=tokens).pairs, fill=fill)
    # rows and sources differ from prompt to prompt
    rows = Rows(torch.rand(7, 13, generator=torch.Generator().manual_seed(2)) > 0.4)
    whole = Plain(model, pairs)
    expected, forward = whole.patched(cells, rows, lambda logits: logits), type(model.hf.model).forward

    def scarce(self, input_ids, *args, **kwargs):
        tried.append(len(input_ids))
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(model.hf.model), "forward", scarce)
    own = Plain(model, pairs)
    # a metric is asked about all prompts at once
    found = own.patched(cells, rows, lambda logits: logits.new_zeros(0) if logits.shape[1] < 7 else logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # the first run learns it, and one forward a cell follows
    assert tried == [7, 3, 4, 2, 2, *[1, 2, 2, 2] * 2]
    for name in ("base_logits", "other_logits"):
        torch.testing.assert_close(getattr(own, name), getattr(whole, name), rtol=0, atol=1e-5)
