"""`headlens attribute` and `headlens verify` as a person types them, on a model folder made here."""

import importlib
import tomllib

import numpy as np
import pytest

from headlens.analyses.attribution import attribute
from headlens.analyses.headmap import HeadMap
from headlens.analyses.headmap_json import from_json
from headlens.analyses.patching import patch_sweep
from headlens.analyses.tasks import ioi
from headlens.models import load
from tiny_folders import contents, ioi_folder


@pytest.fixture
def attributed(run, folder, tmp_path):
    """Finish a small attribution."""
    result = run("attribute", "--model", folder, "--n", 3, "--steps", 2, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("words", "arguments", "work"),
    [
        ("", {}, "12 heads"),
        (
            "--site resid_mid --direction noising --steps 3 --metric prob",
            {"site": "resid_mid", "direction": "noising", "steps": 3, "metric": "prob"},
            "3 layers x 14 positions of resid_mid",
        ),
        (
            "--axes layer,head,pos --positions S2,END",
            {"axes": ("layer", "head", "pos"), "positions": ["S2", "END"]},
            "12 heads x 2 positions at S2, END",
        ),
    ],
)
def test_every_option_says_what_attribute_is_told(run, folder, tmp_path, words, arguments, work):
    result = run("attribute", "--model", folder, "--n", 3, "--seed", 1, "--out", tmp_path / "run", *words.split())
    assert result.exit_code == 0, result.output
    assert f"tiny-ioi: {work} on 3 pairs of ioi in" in result.stdout and "attributed effect" in result.stdout
    model = load(folder)
    expected = attribute(model, ioi(model, 3, 1), progress=False, **arguments)
    found = HeadMap.load(tmp_path / "run" / "headmap.safetensors")
    np.testing.assert_array_equal(found.values, expected.values)
    assert (tmp_path / "run" / "report.html").is_file()
    again = run("attribute", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert contents(tmp_path / "again") == contents(tmp_path / "run")


def test_the_config_says_everything(attributed):
    config = tomllib.loads((attributed / "config.toml").read_text())
    expected = {"site": "z", "axes": ["layer", "head"], "metric": "logit_diff", "direction": "denoising", "steps": 2}
    assert config["attribute"] == expected and "sweep" not in config and config["task"]["n"] == 3


def test_verify_patches_the_first_heads_and_leaves_the_others_missing(run, folder, attributed):
    result = run("verify", attributed, "--k", 3, "--sample", 4)
    assert result.exit_code == 0, result.output
    ranked, exact = HeadMap.load(attributed / "headmap.safetensors"), HeadMap.load(attributed / "verified.safetensors")
    model = load(folder)
    whole = patch_sweep(model, ioi(model, 3), progress=False)
    there = np.isfinite(exact.values)
    np.testing.assert_allclose(exact.values[there], whole.values[there], rtol=0, atol=1e-5)
    first = np.argsort(-np.abs(ranked.values), axis=None)[:3]
    assert there.reshape(-1)[first].all() and 4 <= there.sum() <= 7
    read = from_json((attributed / "verified.json").read_text())
    np.testing.assert_array_equal(read.values, exact.values)
    lines = result.stdout.splitlines()
    assert "rank correlation" in result.stdout and lines[-1].startswith("Wrote verified.safetensors, verified.json")
    labels = [line.split()[0] for line in lines if line.split()[0].startswith("L")]
    assert labels == [*exact.top(7)["label"]]


def test_another_attribution_in_the_folder_is_refused_and_kept(run, folder, attributed):
    assert run("verify", attributed, "--k", 3, "--sample", 4).exit_code == 0
    before = contents(attributed)
    result = run("attribute", "--model", folder, "--n", 3, "--out", attributed)
    assert result.exit_code == 1 and "steps: 2 there, 1 now" in result.stderr and "--fresh" in result.stderr
    sweep = run("sweep", "--model", folder, "--n", 3, "--out", attributed)
    assert sweep.exit_code == 1 and "analysis: 'attribute' there" in sweep.stderr
    assert contents(attributed) == before
    assert run("attribute", "--model", folder, "--n", 3, "--fresh", "--out", attributed).exit_code == 0
    assert "steps = 1" in (attributed / "config.toml").read_text()
    # what was verified was the other one
    assert not (attributed / "verified.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--metric rank", "The metric 'rank' has no gradient"),
        ("--metric kl,prob", "attribution takes one at a time"),
        ("--steps 0", "steps=0 was given"),
        ("--task OWN --seed 5", "--seed was given beside"),
        ("--seed=-1", "seed=-1 was given; expected a whole number from 0."),
        ("--axes heads", "Axes 'heads' need heads="),
        ("FILE", "has a table [sweep]; run it with `headlens sweep`."),
    ],
)
def test_a_slip_is_told_before_the_model_is_loaded(run, tmp_path, monkeypatch, words, sentence):
    file = tmp_path / "mine.toml"
    file.write_text('model = "x"\n[task]\nname = "ioi"\n[sweep]\n')
    own = tmp_path / "own.jsonl"
    own.write_text('{"clean": "a b", "corrupted": "c b", "answer": " a", "foil": " c"}')
    monkeypatch.setattr(importlib.import_module("headlens.models"), "load", lambda *_, **__: pytest.fail("loaded"))
    result = run(
        "attribute", "--out", tmp_path / "run", *words.replace("FILE", str(file)).replace("OWN", str(own)).split()
    )
    assert result.exit_code == 1 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_verify_wants_an_attribution(run, folder, tmp_path):
    assert "holds no config.toml" in run("verify", tmp_path).stderr
    assert run("sweep", "--model", folder, "--n", 2, "--out", tmp_path / "run").exit_code == 0
    result = run("verify", tmp_path / "run")
    assert result.exit_code == 1 and "whose numbers are exact already" in result.stderr
    assert run("stats", "--model", folder, "--n", 2, "--length", 9, "--out", tmp_path / "stats").exit_code == 0
    result = run("verify", tmp_path / "stats")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "is a run of `headlens stats`, and verify takes runs of `headlens attribute`." in result.stderr


def test_ctrl_c_says_how_to_go_on(run, folder, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("headlens.analyses.attribution"), "attribute", stopped)
    result = run("attribute", "--model", folder, "--n", 2, "--out", tmp_path / "run")
    assert result.exit_code == 130 and "run the same command again to go on" in result.stderr


def test_no_seed_is_negative(run, folder, attributed):
    for words in (["verify", attributed], ["tasks", "ioi", "--model", folder]):
        result = run(*words, "--seed=-1")
        assert result.exit_code == 1 and "seed=-1 was given; expected a whole number from 0." in result.stderr


def test_verify_refuses_a_map_of_other_weights(run, folder, attributed, tmp_path):
    other = ioi_folder(tmp_path / "other" / "tiny-ioi", seed=1)
    config = attributed / "config.toml"
    config.write_text(config.read_text().replace(str(folder), str(other)))
    result = run("verify", attributed, "--k", 3, "--sample", 4)
    assert result.exit_code == 1 and "was made with other weights than its weights are now" in result.stderr
    assert not (attributed / "verified.json").exists()
