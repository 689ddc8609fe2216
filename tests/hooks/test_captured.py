"""Captured passes, by stand-ins that run the function again, fail, or say something else."""

from dataclasses import dataclass, field
from unittest.mock import MagicMock

import pytest
import torch

from headlens.hooks import sweep
from headlens.hooks.captured import MOST_KEPT, Backend, Captured
from headlens.hooks.cells import Cell, Rows
from headlens.hooks.cuda_graphs import CudaGraphs
from headlens.hooks.machine import Machine, capturing
from headlens.hooks.plain import Plain
from headlens.hooks.sites import Head
from small_engines import engine, every_head
from tiny_models import held


@dataclass
class Again:
    """Runs the function again on buffers of its own, as a graph does; each way takes as long as it is told to."""

    plainly: float = 2.0
    captured: float = 1.0
    off: float = 0.0
    replays: list = field(default_factory=list)
    times: int = 0

    def capture(self, function, inputs):
        buffers = tuple(each.clone() for each in inputs)

        def replayed(*given):
            self.replays.append(len(given))
            for buffer, each in zip(buffers, given, strict=True):
                buffer.copy_(each)
            return function(*buffers) + self.off

        return replayed

    def timed(self, do):
        self.times += 1
        return (self.plainly if self.times % 2 else self.captured), do()


class Failing(Again):
    def capture(self, function, inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def twice(x, y):
    return 2 * x + y


def given(seed, width=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, width, generator=draw), torch.randn(2, width, generator=draw)


def test_work_is_captured_when_it_recurs_and_says_the_same_of_other_inputs():
    backend = Again()
    captured = Captured(backend)
    for seed in range(5):
        assert torch.equal(captured("plan", twice, given(seed)), twice(*given(seed)))
        # the first time plainly, the second time tried (one replay to compare, one to time)
        assert len(backend.replays) == [0, 2, 3, 4, 5][seed]


def test_other_shapes_formats_and_plans_are_other_work():
    captured = Captured(Again())
    wide, half = given(0, width=4), tuple(each.double() for each in given(0))
    for plan, inputs in [("a", given(0)), ("a", wide), ("a", half), ("b", given(0))]:
        assert torch.equal(captured(plan, twice, inputs), twice(*inputs))
    assert not captured.kept
    captured("a", twice, given(1))
    assert len(captured.kept) == 1


def test_what_cannot_be_captured_runs_plainly_from_then_on_and_is_said_once():
    captured = Captured(Failing())
    captured("a", twice, given(0))
    with pytest.warns(
        UserWarning, match="cannot be captured .*not permitted when stream is capturing.*only slower"
    ) as said:
        assert torch.equal(captured("a", twice, given(1)), twice(*given(1)))
        captured("b", twice, given(0))
        captured("b", twice, given(1))
    assert len(said) == 1 and "and more" not in str(said[0].message)
    captured.backend.capture = lambda *args: pytest.fail("tried again")
    assert torch.equal(captured("a", twice, given(2)), twice(*given(2)))
    assert len(captured.refused) == 2


@pytest.mark.parametrize("off", [0.01, float("nan")])
def test_a_captured_pass_that_says_something_else_is_found_out(off):
    captured = Captured(Again(off=off))
    captured("a", twice, given(0))
    with pytest.warns(UserWarning, match="came out wrong by"):
        assert torch.equal(captured("a", twice, given(1)), twice(*given(1)))
    assert torch.equal(captured("a", twice, given(2)), twice(*given(2))) and not captured.kept


class Frozen(Again):
    """Takes what it is given when it captures for constants."""

    def capture(self, function, inputs):
        said = function(*inputs)
        return lambda *given: said.clone()


def test_a_captured_pass_that_says_the_same_of_all_inputs_is_found_out():
    captured = Captured(Frozen())
    captured("a", twice, given(0))
    with pytest.warns(UserWarning, match="came out wrong by"):
        captured("a", twice, given(1))
    assert torch.equal(captured("a", twice, given(1)), twice(*given(1))) and not captured.kept


def test_plans_that_take_turns_are_captured_once_each():
    backend = Again()
    captured = Captured(backend)
    for _ in range(4):
        for plan in range(3):
            assert torch.equal(captured(plan, twice, given(plan)), twice(*given(plan)))
    # two timings each, in the second round
    assert backend.times == 3 * 2 and len(captured.kept) == 3


def test_what_was_dropped_has_to_recur_again():
    backend = Again()
    captured = Captured(backend)
    for plan in range(MOST_KEPT + 1):
        for seed in range(2):
            captured(plan, twice, given(seed))
    times = backend.times
    captured(0, twice, given(2))
    assert backend.times == times
    captured(0, twice, given(3))
    assert backend.times == times + 2


def test_rounding_is_not_wrong():
    captured = Captured(Again(off=1e-6))
    for seed in range(2):
        captured("a", twice, given(seed))
    assert captured.kept


def test_a_captured_pass_that_is_no_faster_is_not_used():
    backend = Again(plainly=1.0, captured=1.0)
    captured = Captured(backend)
    for seed in range(4):
        captured("a", twice, given(seed))
    assert len(backend.replays) == 2 and [*captured.refused.values()] == ["is no faster when it is captured"]


def test_few_captured_passes_are_kept_and_those_used_last():
    captured = Captured(Again())
    for plan in range(MOST_KEPT + 1):
        captured(plan, twice, given(0))
    for plan in range(MOST_KEPT):
        captured(plan, twice, given(0))
    captured(0, twice, given(0))
    captured(MOST_KEPT, twice, given(0))
    assert len(captured.kept) == MOST_KEPT and {plan for plan, _ in captured.kept} == {0, *range(2, MOST_KEPT + 1)}


def test_entries_of_a_pattern_are_patched_by_captured_passes(monkeypatch):
    monkeypatch.setattr(sweep, "_SMALL", 1)
    model, backend = held("llama"), Again()
    own = engine(model, site="pattern", machine=Machine(backend=backend))
    plain, cells = Plain(model, own.pairs), every_head(model)
    # all keys of a query, and then of the next
    for query, key in [(9, 2), (9, 3), (9, 4), (9, 5), (10, 1), (10, 2), (10, 3)]:
        rows = Rows.at(query, 3, 13, key)
        found, expected = (each.patched(cells, rows, lambda logits: logits) for each in (own, plain))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    # per query all but the first, and one more to be timed
    assert len(backend.replays) == (3 + 1) + (2 + 1) and not own.machine.refused


def test_equally_many_cells_of_other_layers_are_another_pass(monkeypatch):
    monkeypatch.setattr(sweep, "_SMALL", 1)
    model, backend = held("llama"), Again()
    own = engine(model, site="pattern", machine=Machine(backend=backend))
    plain, rows = Plain(model, own.pairs), Rows.at(9, 3, 13, 4)
    for _ in range(3):
        for layers in ((0, 1), (1, 2)):
            cells = [Cell.of_heads([Head(layer, 0)]) for layer in layers]
            found, expected = (each.patched(cells, rows, lambda logits: logits) for each in (own, plain))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert len(own.captured.kept) == 2


def test_large_passes_and_sets_over_several_layers_are_not_captured(monkeypatch):
    model, backend = held("llama"), Again()
    own = engine(model, site="pattern", machine=Machine(backend=backend))
    sets = [Cell.of_heads([Head(0, head), Head(2, 1)]) for head in range(4)]
    monkeypatch.setattr(sweep, "_SMALL", 1)
    for key in range(3):
        own.patched(sets, Rows.at(9, 3, 13, key), lambda logits: logits)
    monkeypatch.setattr(sweep, "_SMALL", 1 / 100)
    for key in range(3):
        own.patched(every_head(model), Rows.at(9, 3, 13, key), lambda logits: logits)
    assert not backend.times


def test_what_a_machine_refuses_is_known_to_the_next_group(monkeypatch):
    monkeypatch.setattr(sweep, "_SMALL", 1)
    model, machine = held("llama"), Machine(backend=Failing())
    for group in range(2):
        own = engine(model, site="pattern", machine=machine)
        for key in range(3):
            rows = Rows.at(9, 3, 13, key)
            if (group, key) == (0, 1):
                with pytest.warns(UserWarning, match="cannot be captured"):
                    own.patched(every_head(model), rows, lambda logits: logits)
            else:
                own.patched(every_head(model), rows, lambda logits: logits)
    assert len(machine.refused) == 1


def test_nothing_is_captured_on_the_cpu():
    assert capturing(held("llama"), Machine()) is None


def test_a_cuda_graph_is_captured_aside_fed_by_copies_and_answers_with_a_copy(monkeypatch):
    """The calls alone: the stand-ins for CUDA's streams and graphs do nothing."""
    graph = MagicMock()
    for name in ("device", "Stream", "stream", "current_stream", "graph", "Event", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    backend, calls = CudaGraphs(torch.device("cuda", 0)), []
    assert isinstance(backend, Backend)
    weights = torch.ones(2, 3, requires_grad=True)

    def function(x, y):
        calls.append((x, y))
        return x * weights + y

    captured = backend.capture(function, (given(0)[0] * weights, given(0)[1]))
    (x, y), out = calls[-1], captured(*given(1))
    assert len(calls) == 3 and graph.replay.call_count == 1
    assert torch.equal(x, given(1)[0]) and torch.equal(y, given(1)[1]) and not x.requires_grad
    assert out.data_ptr() != captured(*given(1)).data_ptr()
    torch.cuda.Event.return_value.elapsed_time.return_value = 250.0
    assert backend.timed(lambda: out)[1] is out and backend.timed(lambda: out)[0] == 0.25
