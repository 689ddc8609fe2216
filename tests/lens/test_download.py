"""Downloading with pip, with a script in the place of Python so that no network is touched."""

import errno
import sys

import pytest

from headlens.download import DownloadFailed, download_wheel


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Let a shell script answer for `python -m pip`; it sees pip's arguments and environment."""

    def answer(script):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return answer


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_pip_downloads_one_wheel_and_installs_nothing(pip, listed, scratch):
    record = 'echo "$@" > asked; echo "$PYTHONSAFEPATH $TMPDIR" > environment'
    pip(f"{record}; : > wheel/{listed.wheel}")
    assert download_wheel(listed, scratch) == scratch / "wheel" / listed.wheel
    arguments = (scratch / "asked").read_text().split()
    assert arguments[:4] == ["-m", "pip", "download", "tiny==1.0"]
    assert {"--no-deps", "--only-binary"} <= set(arguments) and "install" not in arguments
    assert (scratch / "environment").read_text().split() == ["1", str(scratch / "pip")]


@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement tiny==1.0 (from versions: none)\n"
            "ERROR: No matching distribution found for tiny==1.0",
            "could not download tiny==1.0: No matching distribution.*run `headlens fetch tiny`.*--wheel",
        ),
        ("/usr/bin/python: No module named pip", "has no pip .*ensurepip.*--wheel"),
        ("", "gave no reason"),
    ],
    ids=["no index", "no pip", "silence"],
)
def test_a_failed_download_says_why_and_what_to_do(pip, listed, scratch, complaint, expected):
    pip(f"cat >&2 <<'END'\n{complaint}\nEND\nexit 1")
    with pytest.raises(DownloadFailed, match=expected):
        download_wheel(listed, scratch)


def test_a_full_disk_keeps_its_errno(pip, listed, scratch):
    pip("echo 'ERROR: Could not install: [Errno 28] No space left on device' >&2; exit 1")
    with pytest.raises(OSError) as caught:
        download_wheel(listed, scratch)
    assert caught.value.errno == errno.ENOSPC


def test_another_file_than_the_wheel_is_a_failure(pip, listed, scratch):
    pip(": > wheel/tiny-2.0-py3-none-any.whl")
    with pytest.raises(DownloadFailed, match="tiny==1.0"):
        download_wheel(listed, scratch)
