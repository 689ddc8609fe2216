"""Every contestant of the bench measures the same: effects in logits, compared with a plain run under a hook."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench_jobs import FIRST, LENGTH, tiny_job
from headlens import contestants
from headlens.bench_job import Cell
from headlens.contestants import PACKAGES, PEERS, parse_peers, prepare, version_of
from tiny_models import held

CELLS = {
    ("layer", "head"): [Cell(0, 1, None), Cell(2, 3, None), Cell(1, 0, None)],
    ("layer", "head", "pos"): [Cell(0, 1, FIRST), Cell(2, 3, LENGTH - 1), Cell(1, 0, 6)],
}


def expected(job, cells):
    """Effects by TransformerLens-style hooks on the interception layer, which no contestant uses."""
    model, rows = held("llama"), torch.arange(len(job.clean))
    _, cache = model.run_with_cache(torch.tensor(job.clean), names_filter=["z"])

    def measure(hooks):
        last = model.run_with_hooks(torch.tensor(job.corrupted), fwd_hooks=hooks)[:, -1]
        return float((last[rows, job.answers] - last[rows, job.foils]).mean())

    def patched(cell):
        def put_in(z, hook):
            where = slice(None) if cell.pos is None else cell.pos
            z[:, where, cell.head] = cache["z", cell.layer][:, where, cell.head]

        return measure([(f"blocks.{cell.layer}.attn.hook_z", put_in)])

    with torch.no_grad():
        return np.array([patched(cell) for cell in cells]) - measure([])


@pytest.mark.parametrize("axes", CELLS, ids=",".join)
@pytest.mark.parametrize("who", PACKAGES)
@pytest.mark.filterwarnings("ignore")
def test_a_contestant_measures_what_a_hooked_run_does(who, axes, tmp_path):
    if version_of(who) is None:
        pytest.skip(f"{who} is not installed")
    cells = CELLS[axes]
    job = replace(tiny_job(tmp_path, axes), who=who, cells=cells)
    lap = prepare(job)(cells)
    effects = np.array(lap.effects)
    if who.startswith("headlens"):
        assert effects.shape == (3, 4, LENGTH)[: len(axes)]
        effects = np.array([effects[cell[: len(axes)]] for cell in cells])
    want = expected(job, cells)
    assert np.abs(want).min() > 1e-3
    if who == "headlens-verify":
        # only its first cells are patched
        want = np.where(np.isfinite(effects), want, np.nan)
        assert np.isfinite(want).any()
    np.testing.assert_allclose(effects, want, rtol=0, atol=1e-4)
    assert lap.seconds_for(10) > 0


def test_headlens_says_what_its_sweep_needs_at_the_least(tmp_path):
    job = tiny_job(tmp_path, ("layer", "head", "pos"))
    at_one = prepare(job)([])
    everywhere = prepare(replace(job, axes=("layer", "head")))([])
    # more cells, of which each needs less
    assert everywhere.least_flops < at_one.least_flops < (LENGTH - FIRST) * everywhere.least_flops
    assert at_one.matmul_rate > 0


def test_peers_are_named_as_people_type_them():
    assert parse_peers("nnsight, plain-hooks,nnsight") == ("nnsight", "plain-hooks")
    assert parse_peers("") == ()
    with pytest.raises(ValueError, match=r"Unknown peer 'plain_hooks' \(did you mean 'plain-hooks'\?\)"):
        parse_peers("plain_hooks")
    with pytest.raises(ValueError, match="Unknown peer 'headlens'"):
        parse_peers("headlens")
    assert "headlens" not in PEERS


def test_what_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setitem(contestants.PACKAGES, "nnsight", "no-such-distribution")
    assert version_of("nnsight") is None and version_of("plain-hooks") is not None
