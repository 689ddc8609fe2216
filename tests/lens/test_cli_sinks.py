"""`headlens sinks` as a person types it, on a model folder made here."""

import importlib
import tomllib

import numpy as np
import pandas
import pytest

from headlens.analyses import sinks_run
from headlens.analyses.english import english_windows
from headlens.analyses.headmap import HeadMap
from headlens.analyses.sinks import find_sinks
from headlens.analyses.sinks_gathered import sinks_in
from headlens.analyses.tasks import ioi
from headlens.models import load
from tiny_folders import contents

# on a random model few tokens are sinks by the usual rule
LOOSE = ["--alpha", 1.5, "--min-rows", 3, "--min-share", 0.1, "--first"]
RULE = {"alpha": 1.5, "min_rows": 3, "min_share": 0.1, "first": True}


@pytest.fixture
def found(run, folder, tmp_path):
    """Find the sinks of English."""
    result = run("sinks", "--model", folder, "--n", 3, "--length", 30, *LOOSE, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    return tmp_path / "run", result


def test_a_run_has_counts_a_table_and_words(run, folder, found):
    place, result = found
    model = load(folder)
    expected = find_sinks(model, english_windows(model, 3, 30, 0), **RULE)
    counts = HeadMap.load(place / "headmap.safetensors")
    assert expected.flagged.any() and not expected.flagged.all()
    np.testing.assert_array_equal(counts.samples, expected.counts().samples)
    written, frame = pandas.read_csv(place / "sinks.csv", keep_default_na=False), expected.to_frame()
    assert written["label"].tolist() == frame["label"].tolist()
    np.testing.assert_allclose(written["times"], frame["times"], rtol=1e-5)
    assert "tiny-ioi: 12 heads on 3 prompts of english in" in result.stdout
    assert expected.described() in result.stdout and "headmap.json, report.html, sinks.csv in" in result.stdout
    assert "attention sinks (tokens per prompt)" in run("show", place).stdout


def test_the_config_says_everything_and_repeats_the_run(run, folder, found, tmp_path):
    place, _ = found
    config = tomllib.loads((place / "config.toml").read_text())
    assert config["text"] == {"name": "english", "n": 3, "length": 30, "seed": 0}
    assert config["sinks"] == {"mode": "causal_column", **RULE}
    assert run("sinks", place / "config.toml", "--out", tmp_path / "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(place)


def test_a_stopped_run_of_a_task_goes_on_and_ends_in_the_same_bytes(run, folder, tmp_path, monkeypatch):
    words = ["sinks", "--model", folder, "--task", "ioi", "--n", 6, "--mode", "row", *LOOSE]
    assert run(*words, "--out", tmp_path / "whole").exit_code == 0
    calls = []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sinks_in(*args, **kwargs)

    monkeypatch.setattr(sinks_run, "sinks_in", stopping)
    stopped = run(*words, "--out", tmp_path / "run")
    assert stopped.exit_code == 130 and "Stopped. What is finished is kept in" in stopped.stderr
    assert run(*words, "--out", tmp_path / "run").exit_code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    model = load(folder)
    task = ioi(model, 6)
    counts = HeadMap.load(tmp_path / "run" / "headmap.safetensors")
    for prompt, length in enumerate(task.lengths.tolist()):
        alone = find_sinks(model, task.clean_tokens[prompt, :length], "row", **RULE)
        np.testing.assert_array_equal(counts.samples[prompt], alone.counts().values)
    assert counts.clusters == task.templates


def test_a_run_started_afresh_and_stopped_has_no_table_of_the_one_before(run, folder, found, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    place, _ = found
    monkeypatch.setattr(sinks_run, "sinks_in", stopped)
    assert run("sinks", "--model", folder, "--n", 2, "--length", 30, "--fresh", "--out", place).exit_code == 130
    assert not (place / "sinks.csv").exists() and not (place / "headmap.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--mode causal_colum", "Unknown sink mode 'causal_colum' (did you mean 'causal_column'?)"),
        ("--alpha 0", "A sink rule was given alpha=0.0; expected a positive number"),
        ("--threshold -1", "A sink rule was given threshold=-1.0"),
        ("--min-share 1", "min_rows=16 and min_share=1.0 were given"),
        ("FILE --min-rows 3", "--min-rows was given beside"),
        ("FILE", "has a table [stats]; run it with `headlens stats`."),
    ],
)
def test_a_slip_is_told_before_the_model_is_loaded(run, tmp_path, monkeypatch, words, sentence):
    file = tmp_path / "mine.toml"
    file.write_text('model = "x"\n[stats]\n')
    monkeypatch.setattr(importlib.import_module("headlens.models"), "load", lambda *_, **__: pytest.fail("loaded"))
    result = run("sinks", "--out", tmp_path / "run", *words.replace("FILE", str(file)).split())
    assert result.exit_code == 1 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
