"""Run folders: what is kept, what is refused, and what is set aside."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from headlens.analyses import atomic
from headlens.analyses.checkpoints import Checkpoint

WORK = {"model": "m", "seed": 0, "axes": ("layer", "head")}


def fill(folder, *keys, work=WORK, resume=True):
    with Checkpoint.open(folder, work, resume) as chunks:
        for key in keys:
            chunks.save(key, {"x": np.arange(3.0)})


def names(folder):
    return sorted(path.name for path in (folder / "chunks").iterdir())


def test_a_finished_chunk_is_not_computed_again(tmp_path):
    fill(tmp_path, "a")
    with Checkpoint.open(tmp_path, WORK) as chunks:
        kept = chunks.kept("a", lambda: pytest.fail("computed again"))
        assert np.array_equal(kept["x"], [0, 1, 2])
        assert chunks.kept("b", lambda: {"x": np.ones(1)})["x"] == 1
    assert names(tmp_path) == ["a.safetensors", "b.safetensors"]


def test_other_work_is_refused_by_what_differs_and_nothing_is_lost(tmp_path):
    fill(tmp_path, "a")
    with pytest.raises(ValueError, match=r"\(model: 'm' there, 'other' now; n: None there, 5 now\)"):
        fill(tmp_path, "b", work={**WORK, "model": "other", "n": 5})
    assert names(tmp_path) == ["a.safetensors"]
    fill(tmp_path, "b", work={**WORK, "seed": 1}, resume=False)
    assert names(tmp_path) == ["b.safetensors"]


def test_what_differs_is_told_entry_by_entry_and_cut_short(tmp_path):
    fill(tmp_path, work={"task": {"n": 8, "seed": 0}, "hash": "a" * 64})
    with pytest.raises(ValueError, match=r"\(hash: 'a{39}\.\.\. there, 'b' now; task\.seed: 0 there, 1 now\)"):
        fill(tmp_path, work={"task": {"n": 8, "seed": 1}, "hash": "b"})


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:-1] + b"\x01", lambda data: b""])
def test_a_damaged_chunk_is_set_aside_and_the_others_stay(tmp_path, damage):
    fill(tmp_path, "a", "b")
    path = tmp_path / "chunks" / "a.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with Checkpoint.open(tmp_path, WORK) as chunks:
        with pytest.raises(ValueError, match=r"a\.safetensors .*set aside as a\.damaged; run the same command again"):
            chunks.load("a")
        assert chunks.load("a") is None and chunks.load("b") is not None
    assert names(tmp_path) == ["a.damaged", "b.safetensors"]


def test_a_chunk_under_anothers_name_is_refused(tmp_path):
    fill(tmp_path, "a")
    (tmp_path / "chunks" / "a.safetensors").rename(tmp_path / "chunks" / "b.safetensors")
    with Checkpoint.open(tmp_path, WORK) as chunks, pytest.raises(ValueError, match="holds another chunk, 'a'"):
        chunks.load("b")


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_description_is_refused(tmp_path, text):
    fill(tmp_path, "a")
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        fill(tmp_path)
    assert names(tmp_path) == ["a.safetensors"]


def test_chunks_without_a_description_are_refused(tmp_path):
    fill(tmp_path, "a")
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"no run\.json that says of what"):
        fill(tmp_path)


def test_a_full_disk_names_the_file_and_leaves_no_half_one(tmp_path, monkeypatch):
    fill(tmp_path, "a")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoint.open(tmp_path, WORK) as chunks:
        monkeypatch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*b\.safetensors"):
            chunks.save("b", {"x": np.ones(9)})
    assert names(tmp_path) == ["a.safetensors"]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    fill(tmp_path, "a")
    (tmp_path / "chunks" / f"{atomic.TEMPORARY}x.safetensors").write_bytes(b"half")
    fill(tmp_path)
    assert names(tmp_path) == ["a.safetensors"]


def test_a_folder_in_use_is_refused(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom headlens.analyses.checkpoints import Checkpoint\n"
        f"with Checkpoint.open(Path(sys.argv[1]), {WORK!r}):\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        with pytest.raises(ValueError, match="in use by another process"):
            fill(tmp_path, "a")
        other.kill()
    fill(tmp_path, "a")


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    fill(tmp_path, "a")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o666 & ~mask
