"""Head divergence in a run folder: the same map, chunk by chunk, and no chunk twice."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.analyses.vision.divergence import divergence_run as running
from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.divergence.divergence_run import divergence_run
from pictured import pictured
from tiny_models import held

SAMPLES = replace(pictured(), clusters=())


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(running, "TOGETHER", 2)


@pytest.mark.parametrize("asked", [{}, {"without": "mean"}, {"relative": True, "zero_outliers": True}], ids=str)
def test_chunks_make_the_map_of_all_samples(tmp_path, asked):
    model = held("llava")
    found = divergence_run(model, SAMPLES, run=tmp_path, batch=2, progress=False, **asked)
    whole = divergence(model, SAMPLES, batch=2, progress=False, **asked)
    np.testing.assert_allclose(found.samples, whole.samples, rtol=1e-4, atol=1e-5)
    assert found.described() == whole.described()
    chunks = 1 if asked.get("without") == "mean" else -(-len(SAMPLES) // 2)
    assert len([*(tmp_path / "chunks").iterdir()]) == chunks


def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    model, calls = held("llava"), []
    divergence_run(model, SAMPLES, run=tmp_path / "whole", progress=False).save(tmp_path / "whole.safetensors")

    def stopping(model, samples, **asked):
        calls.append(len(samples))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return divergence(model, samples, **asked)

    monkeypatch.setattr(running, "divergence", stopping)
    with pytest.raises(KeyboardInterrupt):
        divergence_run(model, SAMPLES, run=tmp_path / "run", progress=False)
    assert len([*(tmp_path / "run" / "chunks").iterdir()]) == 1
    divergence_run(model, SAMPLES, run=tmp_path / "run", progress=False).save(tmp_path / "again.safetensors")
    # the first sample alone, then every chunk that was not there
    assert sum(calls[3:]) == 1 + len(SAMPLES) - 2
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert HeadMap.load(tmp_path / "again.safetensors").values.all()


def test_another_run_in_the_folder_is_refused(tmp_path):
    model = held("llava")
    divergence_run(model, SAMPLES, run=tmp_path, progress=False)
    with pytest.raises(ValueError, match="relative"):
        divergence_run(model, SAMPLES, run=tmp_path, relative=True, progress=False)
    with pytest.raises(ValueError, match="0 samples"):
        divergence_run(model, SAMPLES.subset([]), run=tmp_path / "none", progress=False)
