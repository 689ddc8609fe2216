"""The bench: what it compares, and that a wrong contestant would be seen. No time is asserted anywhere."""

import csv
import io

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from headlens import bench, cli, contestants
from headlens.analyses.tasks import Task
from headlens.contestants import Lap
from headlens.hooks.sites import Head
from tiny_models import held, inputs_for

CELLS = [Head(0, 1), Head(2, 3), Head(1, 0)]


@pytest.fixture(scope="module")
def task():
    clean = inputs_for("llama", batch=4, length=9)["input_ids"]
    corrupted = clean.clone()
    corrupted[:, 5] = (clean[:, 5] + 31) % 80 + 4
    return Task("random", clean, corrupted, torch.full((4,), 9), torch.arange(4) + 5, torch.arange(4) + 50)


def test_both_contestants_measure_the_same(task):
    ours, theirs = (run(held("llama"), task, CELLS)() for run in (contestants.headlens, contestants.transformer_lens))
    np.testing.assert_allclose(ours.effects, theirs.effects, rtol=0, atol=1e-4)
    assert np.abs(theirs.effects).min() > 1e-3


def test_prompts_of_several_lengths_are_refused(task):
    ragged = Task(
        "ragged",
        task.clean_tokens,
        task.corrupted_tokens,
        task.lengths - torch.tensor([0, 0, 1, 0]),
        task.answers,
        task.foils,
    )
    with pytest.raises(ValueError, match="prompts of one length"):
        contestants.transformer_lens(held("llama"), ragged, CELLS)


def test_rows_are_worked_out_from_the_laps(task, monkeypatch):
    laps = {"headlens": Lap(0.0, 0.5, np.array([1.0, 2.0])), "transformer_lens": Lap(3.0, 2.0, np.array([1.0, 2.5]))}
    for who, lap in laps.items():
        monkeypatch.setattr(contestants, who, lambda *args, lap=lap: lambda: lap)
    monkeypatch.setattr(bench, "matmul_rate", lambda model: 2e9)
    monkeypatch.setattr(bench, "least_flops", lambda *args: 6_000_000_000)
    first, second = bench.compare(held("llama"), task, sample=2, rounds=2)
    assert (first.seconds, first.cells, first.cells_timed, first.times_headlens) == (6.0, 12, 12, 1.0)
    assert (first.matmul_share, first.matmul_gflops) == (0.5, 2.0) and (first.peak_gib or 0) > 0
    assert (second.seconds, second.cells_timed, second.times_headlens) == (27.0, 2, 4.5)
    assert second.max_difference == 0.5
    (line, other) = csv.DictReader(io.StringIO(bench.as_csv([first, second], held("llama"), task)))
    assert line["who"] == "headlens" and line["first_difference"] == "5-5" and line["device"]
    assert other["times_headlens"] == "4.5" and other["matmul_share"] == ""


def test_without_a_peer_headlens_is_timed_alone(task, monkeypatch):
    monkeypatch.setattr(bench, "_PACKAGES", ("headlens", "torch"))
    monkeypatch.setattr(bench, "_version", lambda name: None)
    (row,) = bench.compare(held("llama"), task, sample=None, rounds=1)
    assert row.who == "headlens" and 0 < row.matmul_share and row.max_difference == 0


@pytest.mark.real
def test_the_command_writes_its_figures(tmp_path, smollm2):
    out = tmp_path / "bench.csv"
    words = ["bench", "--n", "1", "--sample", "2", "--rounds", "1", "--out", str(out)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0 and "transformer-lens: " in result.stdout
    first, second = csv.DictReader(io.StringIO(out.read_text()))
    assert first["model"] == "smollm2-135m" and first["tokens"] == "14-14"
    assert second["cells_timed"] == "2" and float(second["max_difference"]) < 1e-4
