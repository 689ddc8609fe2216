"""The bench of row statistics holds both ways against each other before it times them."""

import csv

import pytest
import torch
from typer.testing import CliRunner

from headlens import bench_stats
from headlens.cli import app


@pytest.mark.slow
def test_each_length_has_a_row_with_both_ways():
    threads = torch.get_num_threads()
    (row,) = bench_stats.stats_bench((600,), threads=1, rounds=2)
    assert torch.get_num_threads() == threads
    assert (row.tokens, row.threads) == (600, 1)
    assert 0 <= row.max_difference < bench_stats.CLOSE
    assert min(row.seconds_in_blocks, row.seconds_whole, row.times) > 0
    # nine heads' patterns of 600 by 600, and a block of them
    assert row.peak_gib_whole > 9 * 600 * 600 * 4 / 2**30
    assert 0 < row.peak_gib_in_blocks < row.peak_gib_whole
    assert "600 tokens, 1 threads" in bench_stats.described([row])


def test_ways_that_disagree_are_not_timed(monkeypatch):
    monkeypatch.setattr(bench_stats, "whole", lambda call: torch.zeros(3, 9))
    with pytest.raises(AssertionError, match="differ by"):
        bench_stats.stats_bench((20,), threads=1, rounds=1)


def test_the_command_prints_the_rows_and_writes_them(tmp_path, monkeypatch):
    row = bench_stats.StatsRow(64, 1, 0.5, 1.5, 3.0, 0.25, 2.0, 1e-7)
    monkeypatch.setattr(bench_stats, "stats_bench", lambda lengths, threads, rounds: [row] * len(lengths))
    done = CliRunner().invoke(app, ["bench-stats", "--lengths", "64,128", "--out", str(tmp_path / "stats.csv")])
    assert done.exit_code == 0 and done.output.count("3.0 x the time, 8 x the memory") == 2
    written = [*csv.DictReader((tmp_path / "stats.csv").read_text().splitlines())]
    assert [float(line["times"]) for line in written] == [3.0, 3.0] and written[0]["device"]


def test_lengths_are_numbers():
    done = CliRunner().invoke(app, ["bench-stats", "--lengths", "64,many"])
    assert done.exit_code == 1 and "expected numbers of tokens" in done.output
