"""The bench's rows, and that a wrong or a failing contestant would be seen. No time is asserted anywhere."""

import contextlib
import csv
import io

import numpy as np
import pytest
from typer.testing import CliRunner

from bench_jobs import FIRST, LENGTH, tiny_job
from headlens import bench_race, cli, contestants
from headlens.bench import compare
from headlens.bench_job import Lap
from headlens.bench_process import Failed
from headlens.bench_prompts import BEFORE, ioi, long
from headlens.bench_report import as_csv, described

AXES = ("layer", "head", "pos")
EFFECTS = np.random.default_rng(0).normal(size=(3, 4, LENGTH)).astype(np.float32)


@pytest.fixture
def staged(monkeypatch):
    """Contestants that take as long and measure as much as they are told to, and what was asked of whom."""
    asked = []

    def stage(laps):
        @contextlib.contextmanager
        def contestant(job):
            def again():
                asked.append(job.who)
                return laps[job.who](job)

            yield again(), again

        monkeypatch.setattr(bench_race, "contestant", contestant)
        monkeypatch.setattr(bench_race, "version_of", lambda who: None if who == "nnsight" else "1.0")
        return asked

    return stage


def headlens(job):
    return Lap(6.0, 0.0, EFFECTS.tolist(), peak_gib=1.5, least_flops=6_000_000_000, matmul_rate=2e9)


def peer(job, off=0.0):
    """Right, but for the last cell."""
    effects = [float(EFFECTS[cell]) for cell in job.cells]
    return Lap(3.0, 2.0, [*effects[:-1], effects[-1] + off], peak_gib=0.5)


def test_rows_are_worked_out_from_the_laps(tmp_path, staged):
    # while warming up, and in each round
    offs = iter([9.0, 0.5, 0.0])
    asked = staged({"headlens": headlens, "plain-hooks": peer, "pyvene": lambda job: peer(job, off=next(offs))})
    rows = compare(tiny_job(tmp_path, AXES), ("plain-hooks", "pyvene"), sample=5, rounds=2, progress=False)
    # everybody warms up, then all take turns
    assert asked == ["headlens", "plain-hooks", "pyvene"] * 3
    first, second, third = rows
    assert (first.who, first.seconds, first.times_headlens, first.max_difference) == ("headlens", 6.0, 1.0, 0.0)
    assert (first.cells, first.cells_moving, first.cells_timed) == (108, 12 * (LENGTH - FIRST), 108)
    assert (first.matmul_share, first.matmul_gflops, first.peak_gib) == (0.5, 2.0, 1.5)
    assert (second.seconds, second.fastest, second.slowest, second.cells_timed) == (219.0, 219.0, 219.0, 5)
    assert (second.times_headlens, second.times_headlens_moving) == (36.5, 16.5)
    assert second.max_difference < 1e-6 and third.max_difference == pytest.approx(0.5)
    assert second.matmul_share is None and second.peak_gib == 0.5


def test_the_cells_timed_are_those_that_can_move(tmp_path, staged):
    seen = []
    staged({"headlens": headlens, "plain-hooks": lambda job: seen.append(job.cells) or peer(job)})
    for sample in (None, 7):
        compare(tiny_job(tmp_path, AXES), ("plain-hooks",), sample, rounds=1, progress=False)
    every, some = seen[0], seen[-1]
    assert len(every) == len(set(every)) == 48 and {cell.pos for cell in every} == {5, 6, 7, 8}
    assert len(some) == 7 and set(some) < set(every)


def test_a_peer_that_fails_or_is_missing_has_a_row_that_says_so(tmp_path, staged):
    laps = iter([peer, peer])

    def failing(job):
        try:
            return next(laps)(job)
        except StopIteration:
            raise Failed("RuntimeError: out of luck") from None

    asked = staged({"headlens": headlens, "transformer-lens": failing, "plain-hooks": peer})
    job = tiny_job(tmp_path, AXES)
    rows = compare(job, ("transformer-lens", "nnsight", "plain-hooks"), sample=3, rounds=3, progress=False)
    assert [row.problem for row in rows] == [None, "RuntimeError: out of luck", "not installed", None]
    assert asked.count("transformer-lens") == 3 and asked.count("plain-hooks") == 4 and "nnsight" not in asked
    text = described(rows)
    assert "transformer-lens: RuntimeError: out of luck\n" in text and "nnsight: not installed\n" in text
    assert "16.5 x headlens on the 48 cells at which the prompts can differ, 36.5 x on all; effects within " in text
    lines = [*csv.DictReader(io.StringIO(as_csv(rows, job, "ioi")))]
    assert lines[2]["problem"] == "not installed" and lines[2]["seconds"] == ""
    assert lines[0]["axes"] == "layer-head-pos" and lines[0]["first_difference"] == "5" and lines[0]["device"]
    assert lines[3]["times_headlens"] == "36.5" and lines[3]["matmul_share"] == ""


def test_without_headlens_there_is_no_bench(tmp_path, staged):
    def failing(job):
        raise Failed("MemoryError")

    staged({"headlens": failing})
    with pytest.raises(ValueError, match="headlens could not do the bench's sweep: MemoryError"):
        compare(tiny_job(tmp_path), (), progress=False)


@pytest.mark.slow
def test_real_processes_agree(tmp_path):
    job = tiny_job(tmp_path, AXES)
    first, second = compare(job, ("plain-hooks",), sample=4, rounds=1, progress=False)
    assert first.problem is None and second.problem is None
    assert second.max_difference < 1e-4 and second.cells_timed == 4
    assert 0 < first.matmul_share and first.times_headlens == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--peers", "plain-hoks"], "Unknown peer 'plain-hoks' (did you mean 'plain-hooks'?)"),
        (["--prompts", "lng"], "Unknown prompts 'lng' (did you mean 'long'?)"),
        (["--axes", "layer,heads"], "Unknown axes 'layer,heads' (did you mean 'layer,head'?)"),
    ],
)
def test_a_slip_of_the_pen_is_told(words, said):
    result = CliRunner().invoke(cli.app, ["bench", *words, "--model", "nowhere"])
    assert result.exit_code == 1 and said in result.stderr


@pytest.mark.real
def test_the_prompts_are_as_long_as_they_say(smollm2):
    short, longer = ioi(smollm2.tokenizer, 8), long(smollm2.tokenizer, 8)
    for task, tokens, first in ((short, 14, 9), (longer, 62, 57)):
        assert task.lengths.tolist() == [tokens] * 8
        differing = (task.clean_tokens != task.corrupted_tokens).nonzero()
        assert differing.tolist() == [[prompt, first] for prompt in range(8)]
    assert [clean for clean, _ in longer.texts] == [f"{BEFORE} {clean}" for clean, _ in short.texts]
    assert longer.answers.tolist() == short.answers.tolist() and longer.foils.tolist() == short.foils.tolist()


@pytest.mark.real
@pytest.mark.slow
def test_the_command_writes_its_figures(tmp_path, smollm2, monkeypatch):
    monkeypatch.setitem(contestants.PACKAGES, "nnsight", "no-such-distribution")
    out = tmp_path / "bench.csv"
    words = ["bench", "--n", "1", "--sample", "2", "--rounds", "1", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(cli.app, [*words, "--peers", "transformer-lens,nnsight"])
    assert result.exit_code == 0 and "nnsight: not installed" in result.stdout
    first, second, third = csv.DictReader(io.StringIO(out.read_text()))
    assert first["model"] == "smollm2-135m" and first["tokens"] == "14" and first["cells"] == "270"
    assert second["cells_timed"] == "2" and float(second["max_difference"]) < 1e-4
    assert third["problem"] == "not installed"
