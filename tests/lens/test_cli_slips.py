"""Slips of the pen in `headlens sweep` are told in one sentence, before anything is loaded or written."""

import importlib

import pytest

SLIPS = [
    ("--task io", "Unknown task 'io' (did you mean 'ioi'?)"),
    ("--task gone.jsonl", "There is no task file 'gone.jsonl'"),
    ("--task PAIRS --n 3", "all prompts of a file are taken"),
    ("--task PAIRS", "mine.jsonl, line 1: not JSON"),
    ("--site zz", "Unknown site 'zz' (did you mean 'z'?)"),
    ("--axes head,layer", "Axes 'head,layer' are not available at 'z'; its axes are layer,head"),
    ("--site resid_pre --axes layer,head", "not available at 'resid_pre'; its axes are layer, layer,pos."),
    ("--metric logitdiff", "did you mean 'logit_diff'"),
    ("--metric kl,kl", "expected at least one, each once"),
    ("--direction denoise", "give denoising or noising"),
    ("--source others", "give other, zero"),
    ("--heads L1H1,L2", "'L2' is not a head; write heads as 'L23H3'"),
    ("--heads L1H1 --axes layer,head", "give heads or heads,pos"),
    ("--memory lots", "'lots' is not a size"),
    ("--n 0", "n=0 prompts were asked for; give at least 1"),
    ("RUN.toml --n 3", "--n was given beside"),
    ("RUN.toml --metric kl --seed 1 --fresh", "--seed, --metric was given beside"),
    ("gone.toml", "There is no file 'gone.toml'; expected a TOML file"),
]
LATER_SLIPS = [
    ("--model smollm2-135", "did you mean 'smollm2-135m'"),
    ("--model /no/such/folder", "There is no model folder '/no/such/folder'"),
    ("--device gpu", "'gpu' is not a device"),
    ("--dtype int8", "'int8' is not a number format"),
    ("--positions S2,S3", "has no position 'S3'"),
    ("--positions 0..99", "Position 99 was given"),
    ("--heads L9H9", "Head L9H9 does not exist"),
]


@pytest.mark.parametrize(("words", "sentence"), SLIPS, ids=[words for words, _ in SLIPS])
def test_a_slip_is_told_before_the_model_is_loaded(run, tmp_path, monkeypatch, words, sentence):
    pairs = tmp_path / "mine.jsonl"
    pairs.write_text("Mary and John")
    (tmp_path / "RUN.toml").write_text('model = "x"\n[task]\nname = "ioi"\n')
    monkeypatch.setattr(importlib.import_module("headlens.models"), "load", lambda *_, **__: pytest.fail("loaded"))
    words = words.replace("RUN", str(tmp_path / "RUN")).replace("PAIRS", str(pairs)).split()
    result = run("sweep", "--out", tmp_path / "run", *words)
    assert result.exit_code == 1 and sentence in result.stderr
    assert result.stderr.startswith("headlens: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("words", "sentence"), LATER_SLIPS, ids=[words for words, _ in LATER_SLIPS])
def test_what_only_the_model_or_the_task_can_tell_leaves_nothing_behind(run, folder, tmp_path, words, sentence):
    result = run("sweep", "--model", folder, "--out", tmp_path / "run", *words.split())
    assert result.exit_code == 1 and sentence in result.stderr
    assert result.stderr.startswith("headlens: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_sweep_is_told_where_to_go(run):
    result = run("sweep")
    assert result.exit_code == 1 and "give its folder, such as --out runs/mine" in result.stderr
