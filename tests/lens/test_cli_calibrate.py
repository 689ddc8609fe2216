"""`headlens calibrate` as a person types it, on a model folder made here."""

import importlib
import json
import tomllib

import numpy as np
import pytest

from headlens.analyses.calibration import calibrate
from headlens.analyses.choice_task import ChoiceTask
from headlens.analyses.head_search import HeadSearch
from headlens.analyses.headmap import HeadMap
from headlens.cli_options import work_of
from headlens.hooks.sink_rule import SinkRule
from headlens.models import load
from tiny_folders import contents

NAMES = ["Mary", "John", "Tom", "Anna", "Paul", "Emma"]
# on a random model with twelve prompts, a rule and a level by which some head is kept
RULE = {"threshold": 0.02, "min_rows": 1, "min_share": 0.0, "first": True}
LOOSE = "--threshold 0.02 --min-rows 1 --min-share 0 --first --beta 0 --level 1 --sets 3 --candidates all".split()


def written(path, places=("store", "park")):
    """Write twelve prompts whose right choice is the name that comes once."""
    lines = []
    for at in range(12):
        a, b = NAMES[at % 6], NAMES[(at + 1 + at // 6) % 6]
        text = f"When {a} and {b} went to the {places[at % len(places)]}, {b} gave a drink to"
        choices = [f" {a}", f" {b}"] if at % 2 else [f" {b}", f" {a}"]
        lines.append({"prompt": text, "choices": choices, "answer": f" {a}", "template": f"t{at % 4}"})
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture
def prompts(tmp_path):
    """Write prompts with choices of the user's own."""
    return written(tmp_path / "mine.jsonl")


@pytest.fixture
def words(folder, prompts):
    """Say what is calibrated."""
    return ["calibrate", "--model", folder, "--task", prompts, "--layers", "0-1,2", *LOOSE]


@pytest.fixture
def expected(folder, prompts):
    """Calibrate the same from Python."""
    model = load(folder)
    task = ChoiceTask.from_jsonl(model, prompts)
    settings = {"layers": [0, 1, 2], "candidates": None, "level": 1.0, "sets": 3}
    return calibrate(model, task, SinkRule(**RULE), 0.0, progress=False, **settings)


def test_a_run_is_what_calibrate_finds(run, words, expected, tmp_path):
    place = tmp_path / "run"
    result = run(*words, "--out", place)
    assert result.exit_code == 0, result.output
    assert expected.selected and not np.isnan(expected.measured.values).any()
    assert json.loads((place / "calibration.json").read_text()) == json.loads(json.dumps(expected.plain()))
    for name, headmap in (("headmap", expected.measured), ("estimate", expected.estimate)):
        found = HeadMap.load(place / f"{name}.safetensors")
        np.testing.assert_array_equal(found.samples, headmap.samples)
        assert (found.units, found.clusters) == (headmap.units, headmap.clusters)
    assert "tiny-ioi: 12 of 12 heads on 12 prompts of mine in" in result.stdout and "by replay" in result.stdout
    assert expected.described() in result.stdout
    (first,) = [line.split() for line in result.stdout.splitlines() if line.split()[:1] == ["label"]]
    assert first == ["label", "estimate", "gain", "p", "q", "selected"]
    assert f" {expected.selected[0]} " in result.stdout and "True" in result.stdout
    assert (place / "report.html").is_file() and (place / "results.parquet").is_file()
    assert "calibration gain (accuracy, percentage points on half A" in run("show", place).stdout
    assert run("export", place, "--to", "npz", "--out", tmp_path / "x.npz").exit_code == 0


def test_the_config_says_everything_and_repeats_the_run(run, words, prompts, tmp_path, monkeypatch):
    assert run(*words, "--out", tmp_path / "run").exit_code == 0
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["task"] == {"file": "mine.jsonl"}
    settings = {"beta": 0.0, "layers": [0, 1, 2], "candidates": "all", "level": 1.0, "sets": 3, "seed": 0}
    assert config["calibrate"] == {"mode": "causal_column", "alpha": 5.0, **RULE, **settings}
    prompts.unlink()
    monkeypatch.chdir(tmp_path)
    again = run("calibrate", "run/config.toml", "--out", "again")
    assert again.exit_code == 0, again.output
    assert contents(tmp_path / "again") == contents(tmp_path / "run")


def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(run, words, prompts, tmp_path, monkeypatch):
    # a place of two tokens, so that there are prompts of two lengths
    written(prompts, ("store", "old store"))
    assert run(*words, "--out", tmp_path / "whole").exit_code == 0
    calls = []

    def stopping(self, prompts, heads):
        calls.append(prompts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return computed(self, prompts, heads)

    computed = HeadSearch._alone
    monkeypatch.setattr(HeadSearch, "_alone", stopping)
    stopped = run(*words, "--out", tmp_path / "run")
    assert stopped.exit_code == 130 and "Stopped. What is finished is kept in" in stopped.stderr
    kept = len([*(tmp_path / "run" / "chunks").iterdir()])
    resumed = run(*words, "--out", tmp_path / "run")
    assert resumed.exit_code == 0 and f"({kept} finished chunks were there already)" in resumed.stdout
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


SLIPS = [
    ("--task ioi", "The task 'ioi' is not of prompts with choices; the tasks that are: sentiment, question_kinds"),
    ("--task sentimet", "Unknown task 'sentimet' (did you mean 'sentiment'?)"),
    ("--task TWICE", "twice.jsonl, line 2: the choice ' a' is given twice"),
    ("--mode rows", "Unknown sink mode 'rows' (did you mean 'row'?)"),
    ("--beta 2", "A transfer was given beta=2.0"),
    ("--layers 5-2", "'5-2' was given for layers; write them as 2-29 or 2,5,8."),
    ("--candidates most", "'most' was given for candidates; give a number of heads, or all."),
    ("--candidates 0", "candidates=0 was given; expected at least 1."),
    ("--level 0", "level=0.0 was given"),
    ("--task PROMPTS --n 3", "--n was given beside"),
]
LATER_SLIPS = [
    ("--task LONG", "long.jsonl, line 1: the choice ' zebras' is not one known token"),
    ("--task PROMPTS --layers 1-7", "the model has layers 0 to 2"),
    ("--task FEW", "takes 4 or more"),
]


@pytest.fixture
def slip(run, prompts, tmp_path):
    """Type words, among which names stand for files."""
    fine = {"prompt": "When Mary and", "choices": [" John", " Mary"], "answer": " John"}
    files = {"TWICE": [fine, {**fine, "choices": [" a", " a"]}], "LONG": [{**fine, "choices": [" John", " zebras"]}]}
    for name, lines in {**files, "FEW": [fine] * 3}.items():
        (tmp_path / f"{name.lower()}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    def slip(model, words, sentence):
        for name in ("TWICE", "LONG", "FEW"):
            words = words.replace(name, str(tmp_path / f"{name.lower()}.jsonl"))
        typed = words.replace("PROMPTS", str(prompts)).split()
        result = run("calibrate", "--model", model, "--out", tmp_path / "run", *typed)
        assert result.exit_code == 1 and sentence in result.stderr, result.stderr
        assert result.stderr.startswith("headlens: ") and result.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()

    return slip


@pytest.mark.parametrize(("words", "sentence"), SLIPS, ids=[words for words, _ in SLIPS])
def test_a_slip_is_told_before_the_model_is_loaded(slip, monkeypatch, words, sentence):
    monkeypatch.setattr(importlib.import_module("headlens.models"), "load", lambda *_, **__: pytest.fail("loaded"))
    slip("x", words, sentence)


@pytest.mark.parametrize(("words", "sentence"), LATER_SLIPS, ids=[words for words, _ in LATER_SLIPS])
def test_what_only_the_model_can_tell_leaves_nothing_behind(slip, folder, words, sentence):
    slip(folder, words, sentence)


def test_a_file_of_prompts_leaves_the_seed_to_the_halves(prompts):
    reads = {"task": str(prompts), "n": None, "seed": 5}
    work = work_of("calibrate", None, model=None, device=None, dtype=None, reads=reads)
    assert work.table.seed == 5 and work.source.path == prompts
