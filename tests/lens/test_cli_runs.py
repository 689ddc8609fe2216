"""`headlens sweep` as a person types it, on a model folder made here."""

import importlib
import json
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headlens import cli
from headlens.analyses import sweeping
from headlens.analyses.checkpoints import Checkpoint
from headlens.analyses.headmap import HeadMap
from headlens.analyses.patching import patch_sweep
from headlens.analyses.tasks import ioi
from headlens.models import load
from tiny_folders import contents

RESULTS = {
    "headmap.safetensors",
    "results.parquet",
    "headmap.json",
    "report.html",
    "run.json",
    "config.toml",
    "chunks",
}
COMMAND = str(Path(sys.executable).with_name("headlens"))


@pytest.fixture
def swept(run, folder, tmp_path):
    """Finish a small sweep."""
    assert run("sweep", "--model", folder, "--n", 6, "--out", tmp_path / "run").exit_code == 0
    return tmp_path / "run"


def test_a_sweep_writes_every_result_and_ranks_the_heads(run, folder, tmp_path):
    result = run("sweep", "--model", folder, "--n", 6, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "tiny-ioi: 12 heads on 6 pairs of ioi in" in result.stdout and "by replay" in result.stdout
    ranked = [line.split() for line in result.stdout.splitlines() if line.startswith("  L")]
    assert len(ranked) == 12
    assert ranked == sorted(ranked, key=lambda words: -abs(float(words[1])))
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"} == RESULTS


def test_a_second_sweep_computes_nothing_and_changes_no_byte(run, folder, swept, monkeypatch):
    before = contents(swept)
    monkeypatch.setattr(sweeping, "_band", lambda *args: pytest.fail("computed again"))
    result = run("sweep", "--model", folder, "--n", 6, "--out", swept)
    assert result.exit_code == 0 and "finished chunks were there already" in result.stdout
    assert contents(swept) == before


def test_results_are_there_even_if_the_reader_of_the_output_has_gone(run, folder, tmp_path, monkeypatch):
    def gone(*args, **kwargs):
        raise BrokenPipeError

    monkeypatch.setattr(cli.typer, "echo", gone)
    run("sweep", "--model", folder, "--n", 6, "--out", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"} == RESULTS


@pytest.fixture
def pairs(tmp_path):
    """Write two pairs of the user's own."""
    lines = [
        {"clean": f"When {a} and {b} went to the store, {b} gave a drink to", "answer": f" {a}", "foil": f" {b}"}
        | {"corrupted": f"When {a} and {b} went to the store, {c} gave a drink to"}
        for a, b, c in [("Mary", "John", "Paul"), ("Tom", "Anna", "Emma")]
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_a_sweep_by_position_of_the_users_own_pairs(run, folder, pairs, tmp_path):
    words = ["sweep", "--model", folder, "--task", pairs, "--axes", "layer,head,pos", "--direction", "noising"]
    result = run(*words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "12 heads x 14 positions on 2 pairs of mine" in result.stdout and "@" in result.stdout


# what is typed, what patch_sweep is told, and how the work is put in words
EVERY_KIND = [
    ("--site resid_pre", {"site": "resid_pre"}, "3 layers x 14 positions of resid_pre"),
    ("--site mlp_out --axes layer", {"site": "mlp_out", "axes": ("layer",)}, "3 layers of mlp_out"),
    ("--site v --positions S2", {"site": "v", "positions": ["S2"]}, "6 key/value heads of v at S2"),
    (
        "--axes layer,pos --positions S2,12,S1..S2 --source mean",
        {"axes": ("layer", "pos"), "positions": ["S2", 12, "S1..S2"], "source": "mean"},
        "3 layers x 3 positions at S2, 12, S1..S2",
    ),
    (
        "--heads L2H3+L0H1,L1H1 --metric kl,logit_diff --metric rank",
        {"heads": [["L2H3", "L0H1"], ["L1H1"]], "metric": ["kl", "logit_diff", "rank"]},
        "2 sets of heads",
    ),
    ("--heads L2H3 --axes heads,pos", {"heads": [["L2H3"]], "axes": ("heads", "pos")}, "1 set of heads x 14 positions"),
    pytest.param(
        "--site pattern --axes layer,head,query,key --direction noising --metric loss",
        {"site": "pattern", "axes": ("layer", "head", "query", "key"), "direction": "noising", "metric": "loss"},
        "12 heads x 14 query positions x 14 key positions of pattern",
        marks=pytest.mark.slow,
    ),
    ("--source resample --seed 3 --dtype float32 --device cpu", {"source": "resample", "seed": 3}, "12 heads"),
]


@pytest.mark.parametrize(("words", "arguments", "work"), EVERY_KIND)
def test_every_option_says_what_patch_sweep_is_told(run, folder, tmp_path, words, arguments, work):
    result = run("sweep", "--model", folder, "--n", 3, "--out", tmp_path / "run", *words.split())
    assert result.exit_code == 0, result.output
    assert f"tiny-ioi: {work} on 3 pairs of ioi in" in result.stdout
    model = load(folder)
    expected = patch_sweep(model, ioi(model, 3, arguments.get("seed", 0)), progress=False, **arguments)
    found = HeadMap.load(tmp_path / "run" / "headmap.safetensors")
    np.testing.assert_array_equal(found.values, expected.values)
    assert (found.dims, found.coords, found.units) == (expected.dims, expected.coords, expected.units)
    again = run("sweep", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert contents(tmp_path / "again") == contents(tmp_path / "run")


def test_the_config_says_everything(folder, swept):
    assert tomllib.loads((swept / "config.toml").read_text()) == {
        "model": str(folder),
        "device": "cpu",
        "dtype": "float32",
        "task": {
            "name": "ioi",
            "n": 6,
            "seed": 0,
            "corruption": "abc",
            "orders": ["ABBA", "BABA"],
            "templates": json.loads((swept / "run.json").read_text())["task_details"]["templates"],
            "prepend_bos": False,
        },
        "sweep": {
            "site": "z",
            "axes": ["layer", "head"],
            "metric": "logit_diff",
            "direction": "denoising",
            "source": "other",
            "memory": "1GiB",
        },
    }


def test_a_run_of_the_users_own_pairs_keeps_them(run, folder, pairs, tmp_path, monkeypatch):
    assert run("sweep", "--model", folder, "--task", pairs, "--out", tmp_path / "run").exit_code == 0
    pairs.unlink()
    monkeypatch.chdir(tmp_path)
    assert run("sweep", "run/config.toml", "--out", "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "run")


def test_a_file_says_where_its_run_goes_unless_it_is_typed(run, folder, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(f'model = "{folder}"\nout = "here"\n[task]\nname = "ioi"\nn = 2\n[sweep]\nsite = "v"\n')
    assert run("sweep", file).exit_code == run("sweep", file, "--out", tmp_path / "there").exit_code == 0
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert run("sweep", file, "--fresh").exit_code == 0


def test_the_config_is_there_before_the_sweep_starts(run, folder, tmp_path, monkeypatch):
    def stopped(*args):
        assert (tmp_path / "run" / "config.toml").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "_band", stopped)
    assert run("sweep", "--model", folder, "--n", 6, "--out", tmp_path / "run").exit_code == 130


def test_a_folder_in_use_keeps_its_config_even_if_started_afresh(run, folder, swept):
    before = contents(swept)
    with Checkpoint.open(swept, json.loads((swept / "run.json").read_text())):
        result = run("sweep", "--model", folder, "--n", 3, "--fresh", "--out", swept)
    assert result.exit_code == 1 and "is in use by another process" in result.stderr
    assert contents(swept) == before


def test_a_run_started_afresh_and_stopped_shows_nothing_of_the_one_before(run, folder, swept, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "_band", stopped)
    assert run("sweep", "--model", folder, "--n", 3, "--fresh", "--out", swept).exit_code == 130
    assert "n = 3" in (swept / "config.toml").read_text()
    assert "its run is not finished" in run("show", swept).stderr


def test_other_work_in_the_folder_is_refused_and_kept(run, folder, swept):
    before = contents(swept)
    result = run("sweep", "--model", folder, "--n", 6, "--direction", "noising", "--out", swept)
    assert result.exit_code == 1
    assert "direction: 'denoising' there, 'noising' now" in result.stderr and "--fresh" in result.stderr
    assert contents(swept) == before
    assert run("sweep", "--model", folder, "--n", 6, "--direction", "noising", "--fresh", "--out", swept).exit_code == 0


def test_a_damaged_chunk_is_one_sentence_and_the_same_command_mends_it(run, folder, swept):
    before = contents(swept)
    chunk = min((swept / "chunks").iterdir())
    chunk.write_bytes(chunk.read_bytes()[:-3])
    result = run("sweep", "--model", folder, "--n", 6, "--out", swept)
    assert result.exit_code == 1 and "is damaged" in result.stderr and "run the same command again" in result.stderr
    assert run("sweep", "--model", folder, "--n", 6, "--out", swept).exit_code == 0
    (chunk.with_suffix(".damaged")).unlink()
    assert contents(swept) == before


def test_a_full_disk_is_one_sentence_and_what_is_finished_stays(run, folder, swept, monkeypatch):
    exporting = importlib.import_module("headlens.export")
    full = OSError(28, "No space left on device", str(swept / "report.html"))
    monkeypatch.setattr(exporting, "export", lambda *args: (_ for _ in ()).throw(full))
    result = run("sweep", "--model", folder, "--n", 6, "--out", swept)
    assert result.exit_code == 1 and "No space left on device" in result.stderr and "Free some space" in result.stderr
    assert RESULTS <= {path.name for path in swept.iterdir()}


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(folder, tmp_path):
    # a group of its own for each prompt: far more chunks than are finished before the signal comes
    many = ["--n", "400", "--axes", "layer,head,pos", "--memory", "1B"]
    words = [COMMAND, "sweep", "--model", str(folder), *many, "--out", "run"]
    # a suite that runs in the background may have been told to ignore the signal, and its children with it
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=tmp_path, preexec_fn=listening, **pipes) as process:
        chunks = tmp_path / "run" / "chunks"
        while process.poll() is None and not (chunks.exists() and len(list(chunks.glob("[!.]*.safetensors"))) > 1):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. What is finished is kept in run; run the same command again to go on." in complaint
    assert "Traceback" not in complaint and len(list(chunks.glob("[!.]*.safetensors"))) > 1
