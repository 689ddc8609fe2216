"""`headlens stats` as a person types it, on a model folder made here."""

import importlib
import platform
import re
import tomllib
from html import unescape

import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from headlens.analyses import stats_run
from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.english import english_windows, text_windows
from headlens.analyses.headmap import HeadMap
from headlens.analyses.tasks import ioi
from headlens.models import load
from tiny_folders import contents

RESULTS = {"headmap.safetensors", "results.parquet", "headmap.json", "report.html", "run.json", "config.toml", "chunks"}
PROSE = "When Mary and John went to the store, John gave a drink to Paul. Then Anna, who was late, left. " * 9


@pytest.fixture
def measured(run, folder, tmp_path):
    """Measure the default statistics and two groups on English."""
    words = ["--n", 3, "--length", 21, "--seed", 2, "--group", "punctuation,word+number", "--out", tmp_path / "run"]
    result = run("stats", "--model", folder, *words)
    assert result.exit_code == 0, result.output
    return tmp_path / "run", result


def test_a_run_writes_one_map_of_all_that_was_asked_for(folder, measured):
    place, result = measured
    model = load(folder)
    groups = {"punctuation": "punctuation", "word+number": ["word", "number"]}
    expected = head_stats(model, english_windows(model, 3, 21, 2), groups=groups, progress=False)
    found = HeadMap.load(place / "headmap.safetensors")
    assert found.dims == ("layer", "head", "metric") and [*found.coords["metric"]] == [*expected]
    for name, each in expected.items():
        np.testing.assert_allclose(found.sel(metric=name).samples, each.samples, rtol=0, atol=1e-6)
    assert found.provenance["text_details"] == {"n": 3, "length": 21, "seed": 2, "python": platform.python_version()}
    assert "tiny-ioi: 12 heads on 3 prompts of english in" in result.stdout
    assert "entropy (nats), with 95% intervals:" in result.stdout
    assert {path.name for path in place.iterdir() if path.name != ".lock"} == RESULTS


def test_the_config_says_everything_and_repeats_the_run(run, folder, measured, tmp_path):
    place, _ = measured
    assert tomllib.loads((place / "config.toml").read_text()) == {
        "model": str(folder),
        "device": "cpu",
        "dtype": "float32",
        "text": {"name": "english", "n": 3, "length": 21, "seed": 2},
        "stats": {
            "what": ["entropy", "first_token", "previous_token"],
            "group": ["punctuation", "word+number"],
        },
    }
    assert run("stats", place / "config.toml", "--out", tmp_path / "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(place)


def test_each_metric_has_units_and_a_meaning_of_its_own_on_the_page(measured):
    place, _ = measured
    page = (place / "report.html").read_text()
    assert "<h1>attention statistic</h1>" in page and "3 layers, 4 heads, 5 metrics; 3 prompts" in page
    guide = unescape(re.search(r'<p class="guide">(.*?)</p>', page)[1])
    assert "entropy is in units of: nats. Larger means that rows spread their attention over more keys." in guide
    assert "first_token is in units of: share of a row's attention. Larger means that rows attend more to" in guide
    assert {*re.findall(r'"metric":"(.*?)"', page)} == {
        *("entropy", "first_token", "previous_token", "punctuation", "word+number")
    }
    assert {*re.findall(r'"units":"(.*?)"', page)} == {"nats", "share of a row's attention"}


def test_show_and_export_know_the_run(run, measured, tmp_path):
    place, _ = measured
    shown = run("show", place, "--top", 2)
    assert shown.exit_code == 0 and shown.stdout.count("\n  L") == 5 * 2
    assert "previous_token (share of a row's attention), with 95% intervals:" in shown.stdout
    assert run("export", place, "--to", "csv", "--out", tmp_path / "x.csv").exit_code == 0
    assert (tmp_path / "x.csv").read_text().count("\n") == 1 + 3 * 4 * 5


def test_prompts_of_a_task_are_read_at_their_own_lengths(run, folder, tmp_path):
    words = ["--task", "ioi", "--n", 6, "--what", "divergence", "--what", "distance"]
    result = run("stats", "--model", folder, *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    model = load(folder)
    task = ioi(model, 6)
    assert len({*task.lengths.tolist()}) > 1
    found = HeadMap.load(tmp_path / "run" / "headmap.safetensors")
    for prompt, length in enumerate(task.lengths.tolist()):
        clean, corrupted = (row[prompt : prompt + 1, :length] for row in (task.clean_tokens, task.corrupted_tokens))
        alone = head_stats(model, clean, ["divergence", "distance"], other=corrupted, progress=False)
        for at, name in enumerate(("divergence", "distance")):
            np.testing.assert_allclose(found.samples[prompt, ..., at], alone[name].values, rtol=0, atol=1e-5)
    assert found.clusters == task.templates and found.provenance["task_hash"] == task.hash


def test_a_number_for_each_token_has_a_map_of_its_own(run, folder, tmp_path):
    words = ["--task", "ioi", "--n", 6, "--what", "received"]
    result = run("stats", "--model", folder, *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    model = load(folder)
    task = ioi(model, 6)
    assert f"12 heads x {task.clean_tokens.shape[1]} key positions on 6 prompts of ioi" in result.stdout
    assert "attention statistic received (share" in result.stdout and " k0 “" in result.stdout
    found = HeadMap.load(tmp_path / "run" / "headmap.safetensors")
    for prompt, length in enumerate(task.lengths.tolist()):
        alone = head_stats(model, task.clean_tokens[prompt, :length], "received", progress=False)["received"]
        np.testing.assert_allclose(found.samples[prompt, ..., :length], alone.values, rtol=0, atol=1e-6)
        assert np.isnan(found.samples[prompt, ..., length:]).all()


def test_the_page_speaks_of_clean_prompts_where_there_are_corrupted_ones_too(run, folder, tmp_path):
    for words in ("--n 2 --length 9 --what received", "--task ioi --n 3 --what received"):
        assert run("stats", "--model", folder, *words.split(), "--fresh", "--out", tmp_path / "run").exit_code == 0
        page = (tmp_path / "run" / "report.html").read_text()
        assert "Positions carry the token that stands there in the prompts" in page and "clean prompts" not in page
    words = "--n 3 --site resid_mid --axes layer,pos".split()
    assert run("sweep", "--model", folder, *words, "--out", tmp_path / "swept").exit_code == 0
    assert "stands there in the clean prompts" in (tmp_path / "swept" / "report.html").read_text()


def test_windows_longer_than_the_models_positions_leave_nothing_behind(run, folder, tmp_path):
    place = tmp_path / "short"
    config = GPT2Config(vocab_size=len(load(folder).tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=20)
    GPT2LMHeadModel(config).save_pretrained(place)
    load(folder).tokenizer.save_pretrained(place)
    for command in ("stats", "sinks"):
        result = run(command, "--model", place, "--n", 2, "--length", 21, "--out", tmp_path / "run")
        assert result.exit_code == 1 and "Prompts of 21 tokens were given" in result.stderr, result.stderr
        assert not (tmp_path / "run").exists()


def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(run, folder, tmp_path, monkeypatch):
    words = ["stats", "--model", folder, "--task", "ioi", "--n", 6, "--group", "first"]
    assert run(*words, "--out", tmp_path / "whole").exit_code == 0
    calls = []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return head_stats(*args, **kwargs)

    monkeypatch.setattr(stats_run, "head_stats", stopping)
    stopped = run(*words, "--out", tmp_path / "run")
    assert stopped.exit_code == 130 and "Stopped. What is finished is kept in" in stopped.stderr
    assert (tmp_path / "run" / "config.toml").is_file() and "not finished" in run("show", tmp_path / "run").stderr
    resumed = run(*words, "--out", tmp_path / "run")
    assert resumed.exit_code == 0 and "(1 finished chunks were there already)" in resumed.stdout
    chunks = len([*(tmp_path / "run" / "chunks").iterdir()])
    assert chunks > 2 and len(calls) == chunks + 1
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    other = run(*words, "--what", "self", "--out", tmp_path / "run")
    assert other.exit_code == 1 and "holds a run of something else (statistics:" in other.stderr


def test_the_users_own_text_is_kept(run, folder, tmp_path, monkeypatch):
    text = tmp_path / "prose.txt"
    text.write_text(PROSE)
    words = ["--text", text, "--n", 4, "--length", 12, "--what", "entropy"]
    assert run("stats", "--model", folder, *words, "--out", tmp_path / "run").exit_code == 0
    model = load(folder)
    expected = head_stats(model, text_windows(model, PROSE, 4, 12, 0), "entropy", progress=False)["entropy"]
    found = HeadMap.load(tmp_path / "run" / "headmap.safetensors")
    np.testing.assert_allclose(found.samples, expected.samples, rtol=0, atol=1e-6)
    assert found.dims == ("layer", "head") and found.units == "nats" and found.provenance["text"] == "prose"
    text.unlink()
    monkeypatch.chdir(tmp_path)
    assert run("stats", "run/config.toml", "--out", "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "run")


SLIPS = [
    ("--what entrpy", "Unknown statistic 'entrpy' (did you mean 'entropy'?)"),
    ("--group punctation", "Unknown group 'punctation' (did you mean 'punctuation'?)"),
    ("--text englsh", "Unknown text 'englsh' (did you mean 'english'?); give english, or a .txt file."),
    ("--text gone.txt", "There is no text file 'gone.txt'"),
    ("--text TEXT --task ioi", "--text was given beside --task ioi; a run reads a task or a text."),
    ("--task ioi --length 9", "--length was given beside --task ioi"),
    ("--task sentimnt", "Unknown task 'sentimnt' (did you mean 'sentiment'?)"),
    ("--task OWN --seed 5", "--seed was given beside OWN; all prompts of a file are taken, in their order."),
    ("--seed=-1", "seed=-1 was given; expected a whole number from 0."),
    ("--task ioi --seed=-1", "seed=-1 was given; expected a whole number from 0."),
    ("--n 0", "n=0 windows were asked for; give at least 1."),
    ("--length 1", "length=1 was given; a window of text needs 2 tokens or more."),
    ("FILE", "has both [task] and [text]; one run reads one of them."),
    ("FILE --n 3 --what self", "--n, --what was given beside"),
]
LATER_SLIPS = [
    ("--text TEXT", "16 windows of 256 tokens were asked for"),
    ("--what entropy,received", "'received' is a number for each token, which does not fit into one map with others"),
    ("--what divergence", "'divergence' compares the clean with the corrupted prompts of a task of pairs"),
    ("--group image", "names no image token"),
]


@pytest.fixture
def slip(run, tmp_path):
    """Type words, among which TEXT is a text and FILE a file of two sources."""
    text, file, own = tmp_path / "short.txt", tmp_path / "mine.toml", tmp_path / "own.jsonl"
    own.write_text('{"prompt": "John", "choices": [" a", " b"], "answer": " a"}')
    text.write_text("When Mary and John went.")
    file.write_text('model = "x"\n[task]\nname = "ioi"\n[text]\nn = 2\n')

    def slip(folder, words, sentence):
        words = words.replace("TEXT", str(text)).replace("FILE", str(file)).replace("OWN", str(own)).split()
        sentence = sentence.replace("OWN", str(own))
        model = [] if str(file) in words else ["--model", folder]
        result = run("stats", *model, "--out", tmp_path / "run", *words)
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
