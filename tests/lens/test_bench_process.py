"""Contestants in processes of their own: jobs in, laps out, and a sentence when one fails."""

import subprocess
import sys
from dataclasses import replace

import pytest

from bench_jobs import FIRST, LENGTH, tiny_job
from headlens.bench_job import Cell, Job, Lap
from headlens.bench_process import Failed, _reason, contestant


def test_a_job_and_a_lap_arrive_as_they_were_sent(tmp_path):
    job = replace(tiny_job(tmp_path), cells=[Cell(0, 1, None), Cell(2, 3, 4)])
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(job.to_json()).cells[1].pos == 4
    lap = Lap(1.5, 0.25, [[0.5, -1.0]], peak_gib=2.0, least_flops=10**15, matmul_rate=1e11)
    assert Lap.from_json(lap.to_json()) == lap
    assert lap.seconds_for(10) == 4.0


def test_a_job_knows_where_its_prompts_differ(tmp_path):
    job = tiny_job(tmp_path)
    assert job.length == LENGTH and job.first_differences == [FIRST] * 4
    earlier = [job.corrupted[0], [*job.corrupted[1][:3], 119, *job.corrupted[1][4:]], *job.corrupted[2:]]
    assert replace(job, corrupted=earlier).first_differences == [FIRST, 3, FIRST, FIRST]


def test_prompts_of_several_lengths_are_refused(tmp_path):
    job = tiny_job(tmp_path)
    with pytest.raises(ValueError, match="prompts of one length.* 8 to 9"):
        replace(job, clean=[job.clean[0][:-1], *job.clean[1:]])


@pytest.mark.slow
def test_a_process_sweeps_as_often_as_it_is_asked(tmp_path):
    cells = [Cell(layer, 0, None) for layer in (0, 1, 2)] + [Cell(0, 1, None)]
    with contestant(replace(tiny_job(tmp_path), who="plain-hooks", cells=cells)) as (first, again):
        laps = [again(), again()]
    # the first lap is of fewer cells, to warm up
    assert first.effects == laps[0].effects[:3] and laps[0].effects == laps[1].effects
    assert len(set(laps[0].effects)) == 4
    assert 0.1 < first.peak_gib <= laps[1].peak_gib < 8


@pytest.mark.slow
def test_what_a_library_prints_is_not_taken_for_a_lap():
    code = "from headlens.bench_worker import _answers; out = _answers(); print('noise'); out.write('lap'); out.flush()"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "lap" and "noise" in result.stderr


@pytest.mark.slow
def test_the_reason_of_a_failure_is_told_in_a_sentence(tmp_path):
    job = replace(tiny_job(tmp_path), who="plain-hooks", model=str(tmp_path / "nowhere"))
    with pytest.raises(Failed, match=r"^ValueError: There is no model folder '.*nowhere'\.$"), contestant(job):
        pass


def test_other_ends_are_told_too(tmp_path):
    with (tmp_path / "errors").open("w+b") as errors:
        assert _reason(-9, errors) == "its process was ended by SIGKILL"
        assert _reason(3, errors) == "its process ended with exit code 3"
        errors.write(b"Traceback\n  File\nOSError: no\xff space\n\n")
        assert _reason(1, errors) == "OSError: no\ufffd space"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process counts its own memory alone")
def test_a_process_does_not_count_its_parents_memory():
    child = "import torch; from headlens.stopwatch import peak_gib; print(peak_gib(torch.device('cpu')))"
    start = f"subprocess.run([sys.executable, '-P', '-c', {child!r}], check=True)"
    parent = f"import subprocess, sys; held = bytes(range(256)) * 2**23; {start}"
    result = subprocess.run([sys.executable, "-P", "-c", parent], capture_output=True, text=True, check=True)
    # the parent holds 2 GiB
    assert 0.1 < float(result.stdout) < 1.5
