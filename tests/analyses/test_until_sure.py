"""Patching until sure: the same numbers where prompts were used, all of them where it matters, else few."""

import numpy as np
import pytest

from headlens.analyses.patching import patch_sweep
from headlens.analyses.sure import level_per_look, undecided
from headlens.analyses.until_sure import patch_until_sure
from tiny_models import held
from tiny_tasks import task_of


@pytest.mark.parametrize(("axes", "line"), [(("layer", "head"), 0.02), (("layer", "head", "pos"), 0.1)])
def test_cells_get_prompts_until_their_interval_leaves_the_line(axes, line):
    model, task = held("llama"), task_of(prompts=24)
    whole = patch_sweep(model, task, axes=axes, metric="kl", progress=False)
    found = patch_until_sure(model, task, line=line, batch=8, axes=axes, metric="kl", progress=False)
    used = np.isfinite(found.samples)
    np.testing.assert_allclose(found.samples[used], whole.samples[: len(used)][used], rtol=0, atol=1e-5)
    counts = used.sum(0)
    assert set(np.unique(counts)) == {8, 16, 24}
    first = type(whole).from_samples(
        whole.samples[:8], whole.scale[:8], dims=whole.dims, name="", units="", sign="", clusters=task.templates[:8]
    )
    still = undecided(first, line, level_per_look(0.95, 3))
    assert (counts[~still] == 8).all() and (counts[still] > 8).all()
    stopping = found.provenance["stopping"]
    assert stopping["share_of_work"] == pytest.approx(used.sum() / whole.samples.size)
    assert found.provenance["task_hash"] == task.hash


def test_where_all_is_plain_one_batch_is_enough():
    model, task = held("llama"), task_of(prompts=24)
    found = patch_until_sure(model, task, line=50.0, batch=8, progress=False)
    assert found.samples.shape[0] == 8 and found.provenance["stopping"]["undecided"] == 0


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 prompts"):
        patch_until_sure(held("llama"), task_of(), batch=1, progress=False)
