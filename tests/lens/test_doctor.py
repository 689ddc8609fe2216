"""The doctor: what it looks at, and that it says what is wrong."""

import pytest
from typer.testing import CliRunner

from headlens import cli, doctor
from headlens.cache import model_folder, write_manifest
from headlens.doctor import diagnose


def found(topic):
    (finding,) = [finding for finding in diagnose() if finding.topic == topic]
    return finding


@pytest.mark.parametrize("topic", ["python", "torch", "transformers", "transformer-lens", "CPU", "memory"])
def test_the_machine_is_described(cache, topic):
    assert found(topic).fine and found(topic).found


def test_what_would_be_used_is_said(cache, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert found("would use").found == "cpu, float32"
    assert found("kernels").found == "plain torch (tensors on the CPU)"
    monkeypatch.setenv("HEADLENS_KERNELS", "triton")
    assert not found("kernels").fine and "the choices are auto, twin, kernel" in found("kernels").found


def test_extras_are_not_asked_for(cache):
    assert "ray" not in {finding.topic for finding in diagnose()}


def test_a_package_too_old_is_told(cache, monkeypatch):
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "1.0" if name == "plotly" else real(name))
    assert not found("plotly").fine and found("plotly").found.startswith("1.0; headlens needs >=")


def test_a_missing_package_is_told(cache, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-thing>=3"])
    assert not found("no-such-thing").fine and "pip install 'no-such-thing>=3'" in found("no-such-thing").found


@pytest.mark.parametrize(
    ("content", "fine", "words"),
    [(None, True, "not fetched"), ("{}", True, "ready and intact"), ("[]", False, "fetch tiny --force")],
    ids=["absent", "intact", "damaged"],
)
def test_the_state_of_a_model_is_told(cache, listed, content, fine, words):
    if content is not None:
        model_folder("tiny").mkdir(parents=True)
        (model_folder("tiny") / "config.json").write_text("{}")
        write_manifest(model_folder("tiny"), {})
        (model_folder("tiny") / "config.json").write_text(content)
    assert found("tiny").fine == fine and words in found("tiny").found


def test_a_cache_that_is_a_file_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADLENS_CACHE", str(tmp_path / "file"))
    assert not found("cache").fine and "HEADLENS_CACHE" in found("cache").found


def test_the_command_prints_one_line_each_and_fails_when_something_is_wrong(cache, monkeypatch):
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == len(diagnose())
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-thing>=3"])
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 1 and "BAD no-such-thing" in result.stdout
