"""`headlens reuse` as a person types it, on model folders made here."""

import json

import numpy as np
import pandas
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from headlens.analyses.circuits import stages
from headlens.analyses.circuits.reuse import reuse
from headlens.analyses.headmap import HeadMap
from headlens.analyses.task import Task
from headlens.analyses.tasks import ioi
from headlens.models import load
from task_tokenizers import two_digits
from tiny_folders import contents


@pytest.fixture
def swaps(folder, tmp_path):
    """Pairs of the user's own."""
    path = tmp_path / "swaps.jsonl"
    ioi(load(folder), n=6, seed=3, corruption="swap").to_jsonl(path)
    return path


def test_a_run_has_maps_tables_and_a_page(run, folder, swaps, tmp_path):
    out = tmp_path / "run"
    result = run("reuse", "ioi", swaps, "--model", folder, "--n", 5, "--top", 0.2, "--out", out)
    assert result.exit_code == 0, result.output
    model = load(folder)
    expected = reuse(model, [ioi(model, n=5), Task.from_jsonl(model, swaps)], 0.2, progress=False)
    for stage, maps in expected.maps.items():
        for task, headmap in maps.items():
            kept = HeadMap.load(out / "maps" / f"{task}-{stage}.safetensors")
            np.testing.assert_array_equal(kept.values, headmap.values)
    frame = pandas.read_csv(out / "overlap.csv")
    assert frame.columns.tolist() == expected.to_frame().columns.tolist() and {*frame.second} == {"swaps"}
    assert len(pandas.read_csv(out / "ranks.csv")) == len(expected.stages)
    assert expected.described() in result.stdout
    page = (out / "report.html").read_text()
    assert "logits of ioi" in page and "by chance" in page
    assert json.loads((out / "run.json").read_text())["top"] == 0.2


def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(run, folder, swaps, tmp_path, monkeypatch):
    words = ["reuse", "ioi", swaps, "--model", folder, "--n", 4, "--top", 0.2]
    assert run(*words, "--out", tmp_path / "whole").exit_code == 0
    real, calls = stages.path_patch, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(stages, "path_patch", stopped)
    result = run(*words, "--out", tmp_path / "part")
    assert result.exit_code == 130 and "run the same command again" in result.stderr
    assert run(*words, "--out", tmp_path / "part").exit_code == 0
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """A random model with GPT-2 medium's layers and heads, and vectors of 32 numbers."""
    place, tokenizer = tmp_path_factory.mktemp("models") / "medium", two_digits()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=24,
        n_head=16,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_the_papers_protocol_runs_to_its_end(run, medium, tmp_path):
    out = tmp_path / "paper"
    result = run("reuse", "--model", medium, "--preset", "gpt2-medium-paper", "--n", 6, "--out", out)
    assert result.exit_code == 0, result.output
    about = json.loads((out / "run.json").read_text())
    assert [task["task"] for task in about["tasks"]] == ["ioi", "colored_objects"]
    assert all(task["n_prompts"] == 6 for task in about["tasks"]) and about["top"] == 0.02
    assert about["tasks"][0]["task_hash"] == ioi(load(medium), 6, corruption="swap", prepend_bos=False).hash
    assert about["positions"] == {"ioi": {"values": ["S2"]}}
    # the top 2% of 384 heads at each stage
    frame = pandas.read_csv(out / "overlap.csv")
    heads = frame[frame.share == 0.02].set_index("stage").heads
    assert heads["logits"] == 8 and heads["all"] == 8 * (len(heads) - 1)
    lines = {line[:24].strip(): line[24:].split() for line in result.stdout.splitlines()}
    assert lines["shared heads"][1] == "25/32"
    arms = ("none", "negative", "inhibition", "all")
    assert [lines[f"accuracy, {arm}"][1] for arm in arms] == ["49.6%", "78.1%", "81.5%", "93.7%"]
    repaired = pandas.read_csv(out / "repair.csv")
    assert len(repaired) >= 4 and "ORACLE" in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ioi", "--out", "x"], "two or more"),
        (["ioi", "colored_objects"], "--out runs/reuse"),
        (["ioi", "colored_object", "--out", "x"], "colored_objects"),
        (["ioi", "sentiment", "--out", "x"], "not of pairs"),
        (["ioi", "--preset", "gpt2-medium-paper", "--out", "x"], "tasks beside --preset"),
        (["--preset", "gpt2-medum", "--out", "x"], "gpt2-medium-paper"),
        (["--preset", "gpt2-medium-paper", "--out", "x"], "24 layers of 16 heads"),
        (["ioi", "capitals", "--seed", "-1", "--out", "x"], "seed=-1"),
        (["ioi", "capitals", "--n", "0", "--out", "x"], "at least 1"),
    ],
    ids=["one", "out", "spelling", "kind", "both", "preset", "sizes", "seed", "n"],
)
def test_slips_are_named(run, folder, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("reuse", *words, "--model", folder)
    assert result.exit_code == 1 and told in result.stderr and result.stderr.count("\n") == 1
