"""The kernels' bench at sizes that Triton's interpreter can do, with stand-ins for what measures a GPU."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")
from headlens.kernels import bench, bench_attention, bench_cases, bench_sweep
from headlens.kernels.bench_attention import RENORM, SCATTERED, TRANSFER, error, grouped, matmul, statistics
from headlens.kernels.bench_sweep import Shape, Sizes, head_delta, shared_prefix, shared_prefix_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE, SIZES = Shape("tiny", 4, 2, 16, 24), Sizes(cells=19, prompts=2, prefix=37, suffix=3)
HALF, SINGLE = torch.bfloat16, torch.float32
CASES = {
    "renorm": grouped(RENORM, 70, 16, DEVICE, heads=2),
    "transfer": grouped(TRANSFER, 70, 16, DEVICE, heads=2),
    "scattered": grouped(SCATTERED, 70, 24, DEVICE, heads=1),
    "one row": grouped(TRANSFER, 1, 16, DEVICE, heads=1),
    "statistics": statistics(frozenset({"entropy", "first", "previous"}), 70, 16, DEVICE, heads=2),
    "all statistics": statistics(bench_cases._ALL, 70, 16, DEVICE, heads=2),
    "variants": shared_prefix(SHAPE, HALF, DEVICE, SIZES),
    "variants in float32": shared_prefix(SHAPE, SINGLE, DEVICE, SIZES),
    "outputs": head_delta(SHAPE, HALF, DEVICE, prompts=3, suffix=5),
    "outputs in float32": head_delta(SHAPE, SINGLE, DEVICE, prompts=3, suffix=5),
}


def stand_in(call):
    """As if the call had taken a millisecond longer each time."""
    assert call() is not None
    return [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def row_of(case, meter=stand_in, rounds=1):
    (row,) = bench.rows([case], {case.unit: meter}, rounds)
    return row


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_each_case(name):
    case = CASES[name]
    row = row_of(case)
    assert row.problem is None and 0 <= row.difference <= row.allowed
    assert (row.ours_20, row.ours, row.ours_80) == (row.peers_20, row.peers, row.peers_80) == (2.0, 3.5, 5.0)
    assert row.ratio == 1 and row.peer and row.tflops == pytest.approx(case.flops / 3.5e9)
    assert row.met == (None if case.target is None else case.target >= 1)


def test_alone_and_the_machine_itself():
    alone = row_of(grouped(TRANSFER, 40, 16, DEVICE, heads=1, alone=True))
    assert alone.ours == 3.5 and alone.peer is alone.peers is alone.ratio is alone.met is None
    product = replace(matmul(20, HALF, DEVICE), flops=7_000_000_000)
    cases = [product, grouped(RENORM, 40, 16, DEVICE, heads=1), head_delta(SHAPE, SINGLE, DEVICE, prompts=1)]
    first, second, other = bench.rows(cases, {"ms": stand_in})
    assert first.tflops == 2.0 and first.matmul_share == 1
    assert second.matmul_share == pytest.approx(second.tflops / 2.0)
    # there is no product of its dtype
    assert other.matmul_share is None


def test_errors_are_measured_beside_the_peers():
    row = row_of(error(70, 16, DEVICE, heads=2), bench.told, rounds=2)
    assert row.problem is None and 0 < row.ours < 1e-2 and 0 < row.peers < 1e-2
    assert row.ratio == row.ours / row.peers and row.tflops is None and row.met == (row.ratio <= 1)


def test_memory_counts_inputs_and_copies(monkeypatch):
    def meter(call):
        made.clear()
        call()
        return [sum(made)]

    made, real = [], torch.cat
    monkeypatch.setattr(bench_sweep, "drawn", lambda *shape, **how: _counted(bench_attention.drawn(*shape, **how)))
    monkeypatch.setattr(bench_sweep.torch, "cat", lambda *given: _counted(real(*given)))

    def _counted(tensor):
        made.append(float(tensor.nbytes))
        return tensor

    row = row_of(shared_prefix_memory(SHAPE, HALF, DEVICE, SIZES), meter)
    # keys and values of 40 tokens for 38 variants of prompts, in 2 heads of 16
    assert row.peers - row.ours == 2 * 38 * 40 * 2 * 16 * 2 and row.unit == "GiB" and row.met is None


def test_memory_is_what_a_second_call_adds(monkeypatch):
    """A GPU that has 1 GiB in use before; the first call keeps another, and each needs 0.25 while it runs."""
    state = {"used": 2**30, "most": 2**33, "calls": 0}

    def call():
        state["calls"] += 1
        state["used"] += 2**30 * (state["calls"] == 1)
        state["most"] = max(state["most"], state["used"] + 2**28)

    for name, stands in {
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: state.update(most=state["used"]),
        "memory_allocated": lambda: state["used"],
        "max_memory_allocated": lambda: state["most"],
    }.items():
        monkeypatch.setattr(bench.torch.cuda, name, stands)
    assert bench.peak_gib(call) == [0.25]


WRONG = {
    "renorm": (bench_attention, "grouped_attention", "z", lambda got: replace(got, z=got.z * 1.1)),
    "transfer": (
        bench_attention,
        "grouped_attention",
        "masses",
        lambda got: replace(got, masses=got.masses.roll(1, -1)),
    ),
    "all statistics": (
        bench_attention,
        "row_stats",
        "top",
        lambda got: replace(got, top_mass=got.top_mass * torch.nan),
    ),
    "variants": (bench_sweep, "shared_prefix_attention", "z", lambda got: got.roll(1, 0)),
    "outputs": (bench_sweep, "patched_outputs", "the outputs", lambda got: got.flip(0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_not_timed(name, monkeypatch):
    module, function, what, spoiled = WRONG[name]
    real = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *given, **how: spoiled(real(*given, **how)))
    row = row_of(CASES[name], pytest.fail)
    assert row.problem.startswith(f"{what} differs from float64 by ") and row.difference > row.allowed
    assert row.ours is row.peers is row.ratio is row.met is row.tflops is None


def test_a_peer_that_computes_something_else_is_not_beaten(monkeypatch):
    monkeypatch.setattr(bench_sweep, "_attended", lambda query, key, value: torch.zeros_like(query))
    row = row_of(CASES["variants"], pytest.fail)
    assert row.problem.startswith("the peer's z differs") and row.difference == 1


def test_a_wrong_row_at_the_end_of_a_long_text_is_seen(monkeypatch):
    """The last row alone, in one head."""

    def spoiled(*given, **how):
        got = real(*given, **how)
        got.z[0, -1, 1] *= 1.1
        return got

    real = bench_attention.grouped_attention
    monkeypatch.setattr(bench_attention, "grouped_attention", spoiled)
    assert row_of(CASES["renorm"], pytest.fail).problem


def test_a_case_that_breaks_leaves_the_others_their_figures(monkeypatch):
    def broken(*given, **how):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore.")

    monkeypatch.setattr(bench_attention, "row_stats", broken)
    first, second = bench.rows([CASES["statistics"], CASES["outputs"]], {"ms": stand_in})
    assert first.problem == "OutOfMemoryError: CUDA out of memory." and first.ours is None
    assert second.problem is None and second.ours == 3.5


def test_ours_and_the_peers_take_turns():
    turns = []
    contest = bench.Contest(lambda: "ours", lambda: [bench.Result("z", torch.ones(1), torch.ones(1))], lambda: "peer")
    case = bench.Case("x", "", SINGLE, lambda: contest, target=0.5)
    values = iter([2.0, 8.0, 4.0, 8.0, 3.0, 8.0])

    def meter(call):
        turns.append(call())
        return [next(values)]

    row = row_of(case, meter, rounds=3)
    assert turns == ["ours", "peer"] * 3 and (row.ours, row.peers, row.ratio, row.met) == (3.0, 8.0, 0.375, True)


def test_differences_are_shares_of_a_rows_largest_number():
    exact = torch.tensor([[100.0, 1.0], [0.01, 0.0], [0.0, 0.0]], dtype=torch.float64)
    got = exact.clone()
    assert bench.difference(got, exact) == 0
    got[1, 1] = 0.001
    assert bench.difference(got, exact) == pytest.approx(0.1)
    for bad in (torch.nan, torch.inf):
        got[2, 0] = bad
        assert bench.difference(got, exact) > 1e300
    assert bench.difference(exact[:1], exact) == torch.inf


def test_no_stretch_of_a_long_text_has_a_pattern_of_its_length():
    assert bench_attention._stretches(8192) == [slice(0, 16), slice(4093, 4109), slice(8176, 8192)]
    assert bench_attention._stretches(3) == [slice(0, 3)]


@pytest.mark.parametrize(("quick", "count"), [(True, 3 + 2 + 1), (False, 3 * 4 + 4 + 8 + 2)])
def test_the_sizes_that_are_reported(quick, count):
    cases = bench_cases.all_cases(DEVICE, quick)
    names = [case.name for case in cases]
    assert [*dict.fromkeys(names)] == [*bench_cases.NAMES]
    assert sum(case.peer is None or case.peer == bench_attention.FLASH for case in cases) - 2 == count
    assert {case.target for case in cases} == {None, 1.35, 2.0, 1.0, 1 / 3}
    assert {case.unit for case in cases} == set(bench.gpu_meters())
    assert any("131072" in case.of for case in cases) != quick
    assert len({(case.name, case.of, case.dtype, case.unit) for case in cases}) == len(cases)
