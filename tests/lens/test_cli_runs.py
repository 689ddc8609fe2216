"""`headlens sweep`, `demo`, `show`, `export` as a person types them, on a model folder made here."""

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import tiny_tokenizers
from headlens import cli
from headlens.analyses import patching

RESULTS = {"headmap.safetensors", "results.parquet", "headmap.json", "report.html", "run.json", "chunks"}
COMMAND = str(Path(sys.executable).with_name("headlens"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a random model with a tokenizer that fits the IOI prompts, as a folder."""
    tokenizer = tiny_tokenizers.bpe()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    place = tmp_path_factory.mktemp("models") / "tiny-ioi"
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def run():
    """Run `headlens` with the given words in this process."""
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def swept(run, folder, tmp_path):
    """Finish a small sweep."""
    assert run("sweep", "--model", folder, "--n", 6, "--out", tmp_path / "run").exit_code == 0
    return tmp_path / "run"


def contents(place):
    return {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file() and p.name != ".lock"}


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
    monkeypatch.setattr(patching, "_band", lambda *args: pytest.fail("computed again"))
    result = run("sweep", "--model", folder, "--n", 6, "--out", swept)
    assert result.exit_code == 0 and "finished chunks were there already" in result.stdout
    assert contents(swept) == before


def test_results_are_there_even_if_the_reader_of_the_output_has_gone(run, folder, tmp_path, monkeypatch):
    def gone(*args, **kwargs):
        raise BrokenPipeError

    monkeypatch.setattr(cli.cli_runs.typer, "echo", gone)
    run("sweep", "--model", folder, "--n", 6, "--out", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"} == RESULTS


def test_a_sweep_by_position_of_the_users_own_pairs(run, folder, tmp_path):
    pairs = [
        {"clean": f"When {a} and {b} went to the store, {b} gave a drink to", "answer": f" {a}", "foil": f" {b}"}
        | {"corrupted": f"When {a} and {b} went to the store, {c} gave a drink to"}
        for a, b, c in [("Mary", "John", "Paul"), ("Tom", "Anna", "Emma")]
    ]
    task = tmp_path / "mine.jsonl"
    task.write_text("\n".join(json.dumps(pair) for pair in pairs))
    words = ["sweep", "--model", folder, "--task", task, "--axes", "layer,head,pos", "--direction", "noising"]
    result = run(*words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "12 heads on 2 pairs of mine" in result.stdout and "@" in result.stdout


def test_show_prints_as_many_heads_as_asked(run, swept):
    assert run("show", swept, "--top", 3).stdout.count("\n  L") == 3
    by_run, by_file = run("show", swept), run("show", swept / "headmap.json")
    assert by_run.exit_code == 0 and by_run.stdout == by_file.stdout


@pytest.mark.parametrize("form", ["parquet", "csv", "json", "npz", "html", "safetensors"])
def test_export_writes_each_format(run, swept, tmp_path, form):
    target = tmp_path / f"out.{form}"
    result = run("export", swept, "--to", form, "--out", target)
    assert result.exit_code == 0 and result.stdout == f"Wrote {target}\n" and target.stat().st_size > 100


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "smollm2-135"], "did you mean 'smollm2-135m'"),
        (["--model", "/no/such/folder"], "There is no model folder '/no/such/folder'"),
        (["--task", "io"], "Unknown task 'io' (did you mean 'ioi'?)"),
        (["--task", "gone.jsonl"], "There is no task file 'gone.jsonl'"),
        (["--site", "q"], "q"),
        (["--axes", "head,layer"], "Axes 'head,layer' are not available; give layer,head or layer,head,pos"),
        (["--metric", "logitdiff"], "did you mean 'logit_diff'"),
        (["--direction", "denoise"], "give denoising or noising"),
        (["--memory", "lots"], "'lots' is not a size"),
        (["--n", "0"], "n=0 prompts were asked for; give at least 1"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_nothing_is_written(run, folder, tmp_path, words, sentence):
    result = run("sweep", "--model", folder, "--out", tmp_path / "run", *words)
    assert result.exit_code == 1 and sentence in result.stderr
    assert result.stderr.startswith("headlens: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "nowhere"], "There is no nowhere; give a run folder"),
        (["show", "."], "it is not a run"),
        (["export", "RUN", "--to", "parket"], "parquet"),
        (["show", "RUN/headmap.json"], "headmap.json"),
    ],
)
def test_a_wrong_run_is_one_sentence(run, swept, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (swept / "headmap.json").write_text('{"schema": "head-importance-map/1"}')
    result = run(*(word.replace("RUN", str(swept)) for word in words))
    assert result.exit_code == 1 and sentence in result.stderr and "Traceback" not in result.output


def test_an_unfinished_run_says_so(run, swept):
    (swept / "headmap.safetensors").unlink()
    result = run("show", swept)
    assert result.exit_code == 1 and "its sweep is not finished; run the same `headlens sweep` again" in result.stderr


def test_a_full_disk_is_one_sentence_and_what_is_finished_stays(run, folder, swept, monkeypatch):
    exporting = importlib.import_module("headlens.export")
    full = OSError(28, "No space left on device", str(swept / "report.html"))
    monkeypatch.setattr(exporting, "export", lambda *args: (_ for _ in ()).throw(full))
    result = run("sweep", "--model", folder, "--n", 6, "--out", swept)
    assert result.exit_code == 1 and "No space left on device" in result.stderr and "Free some space" in result.stderr
    assert RESULTS <= {path.name for path in swept.iterdir()}


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(folder, tmp_path):
    words = [COMMAND, "sweep", "--model", str(folder), "--n", "400", "--axes", "layer,head,pos", "--out", "run"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        chunks = tmp_path / "run" / "chunks"
        while process.poll() is None and not (chunks.exists() and len(list(chunks.glob("*.safetensors"))) > 1):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. What is finished is kept in run; run the same command again to go on." in complaint
    assert "Traceback" not in complaint and len(list(chunks.glob("*.safetensors"))) > 1
