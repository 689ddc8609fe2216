"""`headlens bench-kernels` says where it cannot run, prints a line for each case, and writes them as CSV."""

import csv
from dataclasses import fields, replace

import pytest
import torch

pytest.importorskip("triton")
from headlens import bench_kernels
from headlens.bench_kernels import described
from headlens.kernels import bench, bench_cases, dispatch
from headlens.kernels.bench import Row

GOOD = Row(
    "head_stats", "entropy; 8192 tokens", "bfloat16", "ms", 0.4, 0.39, 0.41,
    "torch's flash attention", 0.25, 0.24, 0.26, 1.6, 2.0, True, 300.0, 0.5, 1e-6, 1e-3,
)  # fmt: skip
SLOW = Row("matmul", "9 by 9", "float32", "ms", 2.0, 1.5, 2.5, tflops=41.2)
WRONG = Row("head_delta", "9 cells", "float32", "ms", difference=0.5, allowed=1e-3, problem="z differs")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Pretend to have measured rows on a GPU, and keep which cases were asked for."""
    asked = []

    def rows(cases, meters, rounds):
        asked.append(([case.name for case in cases], rounds))
        yield from measured

    measured = [SLOW, GOOD]
    monkeypatch.setattr(bench_kernels, "timing_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(bench, "rows", rows)
    return asked, measured


def test_without_a_gpu_it_says_so(run, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run("bench-kernels", "--out", tmp_path / "kernels.csv")
    assert done.exit_code == 1 and done.stdout == "" and not [*tmp_path.iterdir()]
    assert done.stderr.startswith("headlens: Kernels are timed on a CUDA GPU, and torch sees none here. ")
    assert "TRITON_INTERPRET=1" in done.stderr and done.stderr.endswith("it times nothing.\n")


def test_a_gpu_that_runs_no_kernel_and_an_interpreter_on_one(monkeypatch):
    from triton import knobs

    monkeypatch.setattr(bench_kernels, "default_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(bench_kernels, "on_device", lambda device: dispatch.Choice(False, "triton is not installed"))
    with pytest.raises(ValueError, match="cannot be timed here: triton is not installed"):
        bench_kernels.timing_gpu()
    monkeypatch.setattr(bench_kernels, "on_device", lambda device: dispatch.Choice(True, "tensors on a card"))
    monkeypatch.setattr(knobs.runtime, "interpret", True)
    with pytest.raises(ValueError, match="TRITON_INTERPRET is set"):
        bench_kernels.timing_gpu()
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    assert bench_kernels.timing_gpu() == torch.device("cuda", 0)


def test_lines_and_csv(run, on_a_gpu, tmp_path):
    done = run("bench-kernels", "--out", tmp_path / "kernels.csv")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "matmul: 9 by 9; float32: 2 ms (1.5 to 2.5), 41.2 TFLOP/s",
        "head_stats: entropy; 8192 tokens; bfloat16: 0.4 ms (0.39 to 0.41), 1.60 x 0.25 of torch's flash attention "
        "(at most 2.00 wanted: met), 300 TFLOP/s, 50% of the matrix-multiply rate",
        f"Wrote {tmp_path / 'kernels.csv'}",
    ]
    lines = [*csv.DictReader((tmp_path / "kernels.csv").read_text().splitlines())]
    assert [*lines[0]] == [*(field.name for field in fields(Row)), "device", "torch", "triton", "cuda"]
    assert [line["ours"] for line in lines] == ["2", "0.4"] and lines[0]["peers"] == "" and lines[1]["met"] == "True"
    assert lines[0]["device"] and lines[0]["torch"] == torch.__version__ and lines[0]["triton"]
    assert [*tmp_path.iterdir()] == [tmp_path / "kernels.csv"]


def test_what_was_not_measured_is_told_written_and_an_error(run, on_a_gpu, tmp_path):
    on_a_gpu[1].append(WRONG)
    done = run("bench-kernels", "--out", tmp_path / "kernels.csv")
    assert done.exit_code == 1 and "head_delta: 9 cells; float32: not measured: z differs\n" in done.stdout
    assert "1 of 3 cases were not measured" in done.stderr
    last = [*csv.DictReader((tmp_path / "kernels.csv").read_text().splitlines())][-1]
    assert (last["problem"], last["ours"], last["peers"]) == ("z differs", "", "")


def test_a_run_that_is_cut_off_leaves_its_rows(run, on_a_gpu, tmp_path, monkeypatch):
    def rows(cases, meters, rounds):
        yield SLOW
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "rows", rows)
    assert run("bench-kernels", "--out", tmp_path / "kernels.csv").exit_code != 0
    assert len((tmp_path / "kernels.csv").read_text().splitlines()) == 2


def test_cases_are_chosen_by_name(run, on_a_gpu):
    asked, _ = on_a_gpu
    assert run("bench-kernels", "--case", "error", "--case", "head_delta", "--quick").exit_code == 0
    names, rounds = asked[0]
    assert [*dict.fromkeys(names)] == ["matmul", "error", "head_delta"] and rounds == 1
    done = run("bench-kernels", "--case", "head_stat")
    assert done.exit_code == 1 and "Unknown case 'head_stat' (did you mean 'head_stats'?)" in done.stderr
    assert all(name in run("bench-kernels", "--help").stdout for name in bench_cases.NAMES)


def test_a_target_that_is_missed_is_told():
    assert "wanted: not met" in described(replace(GOOD, met=False))
