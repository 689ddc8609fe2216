"""The bench of row statistics holds both ways against each other before it times them."""

import pytest
import torch

from headlens import bench_stats


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
