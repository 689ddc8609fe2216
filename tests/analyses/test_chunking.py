"""How much of a sweep is held, computed and kept at once on a GPU that is not there."""

import numpy as np
import pytest
import torch

from headlens.analyses.chunking import bands
from headlens.analyses.patching import patch_sweep
from headlens.analyses.prompt_groups import group_prompts
from headlens.analyses.sweep_plan import plan
from headlens.hooks import room, sweep
from headlens.hooks.room import bytes_per_row
from tiny_models import held
from tiny_tasks import ragged_task, task_of


def on_a_card(monkeypatch, free, whole):
    monkeypatch.setattr(room, "device_of", lambda block: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, whole))
    for unused in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, unused, lambda device: 0)


@pytest.mark.parametrize("free", [0, 5 * 2**30])
def test_chunks_follow_from_the_whole_memory_so_that_a_resumed_run_has_the_same(free, monkeypatch):
    model, task = held("llama"), task_of()
    (group,) = group_prompts(task, len(task))
    of_cell = 5 * 5 * bytes_per_row(model, 9, 5, 0.0)
    for whole, heights in [(80 * 2**30, [12]), (int(7.5 * of_cell / room.SHARE), [7, 5]), (int(of_cell / 2), [1] * 12)]:
        on_a_card(monkeypatch, free, whole)
        assert [len(band) for band in bands(model, np.arange(12), group, plan())] == heights


def test_on_a_large_card_each_group_is_one_pass(monkeypatch):
    model, task, replay, passes = held("llama"), ragged_task(), sweep.replay, []
    plain = patch_sweep(model, task, progress=False)

    def counted(model, base, entries, *rest):
        passes.append(sum(map(len, entries.values())))
        return replay(model, base, entries, *rest)

    monkeypatch.setattr(sweep, "replay", counted)
    on_a_card(monkeypatch, 80 * 2**30, 80 * 2**30)
    found = patch_sweep(model, task, progress=False)
    groups = len(group_prompts(task, len(task)))
    # the trial's two cells come first
    assert passes == [2, *[12] * groups]
    np.testing.assert_allclose(found.samples, plain.samples, rtol=0, atol=1e-5)


def test_what_one_group_learns_of_the_memory_holds_for_the_next(monkeypatch):
    model, task, replay, fits = held("llama"), ragged_task(), sweep.replay, []
    plain = patch_sweep(model, task, progress=False)

    def scarce(model, base, entries, *rest):
        rows = sum(entry.value[..., 0].numel() for entry in entries.values())
        fits.append(rows <= 70)
        if not fits[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return replay(model, base, entries, *rest)

    monkeypatch.setattr(sweep, "replay", scarce)
    found = patch_sweep(model, task, progress=False)
    failed = [at for at, fit in enumerate(fits) if not fit]
    # all at the beginning of the first group that is too large, each at once halved
    assert failed and failed == [*range(failed[0], failed[0] + len(failed))]
    np.testing.assert_allclose(found.samples, plain.samples, rtol=0, atol=1e-5)
