"""`headlens show` and `headlens export` as a person types them, on a sweep of a model folder made here."""

import shutil

import pytest
from typer.testing import CliRunner

from headlens import cli
from tiny_folders import ioi_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finish a small sweep by two metrics."""
    place = tmp_path_factory.mktemp("runs")
    words = ["--n", "3", "--site", "resid_pre", "--metric", "logit_diff,prob", "--out", str(place / "run")]
    assert CliRunner().invoke(cli.app, ["sweep", "--model", str(ioi_folder(place / "tiny-ioi")), *words]).exit_code == 0
    return place / "run"


@pytest.fixture
def swept(finished, tmp_path):
    """Copy that run."""
    return shutil.copytree(finished, tmp_path / "run")


def test_show_prints_as_many_heads_as_asked(run, swept):
    assert run("show", swept, "--top", 3).stdout.count("\n  L") == 2 * 3
    by_run, by_file = run("show", swept), run("show", swept / "headmap.json")
    assert by_run.exit_code == 0 and by_run.stdout == by_file.stdout


def test_show_ranks_by_each_metric_and_names_the_tokens(run, swept):
    by_logits, by_probability = run("show", swept).stdout.split("patching effect")[1:]
    assert "difference in logit_diff), with 95% intervals:" in by_logits and "in prob)" in by_probability
    # all that differs between the two runs is the token at 9, which is what enters layer 0 there
    (line,) = [line for line in by_logits.splitlines() if line.startswith("  L0@9 ")]
    assert "…”" in line and "+1.000" in line


@pytest.mark.parametrize("form", ["parquet", "csv", "json", "npz", "html", "safetensors"])
def test_export_writes_each_format(run, swept, tmp_path, form):
    target = tmp_path / f"out.{form}"
    result = run("export", swept, "--to", form, "--out", target)
    assert result.exit_code == 0 and result.stdout == f"Wrote {target}\n" and target.stat().st_size > 100


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
    assert result.exit_code == 1 and "its run is not finished; run the same command again" in result.stderr
