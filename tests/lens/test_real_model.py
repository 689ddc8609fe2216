"""The main job on SmolLM2-135M: what it finds, that TransformerLens finds the same, and the commands around it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import headlens as hl

pytestmark = pytest.mark.real
COMMAND = str(Path(sys.executable).with_name("headlens"))


@pytest.fixture(scope="module")
def task(smollm2):
    """Build eight pairs of 14 tokens that first differ at position 9."""
    made = hl.tasks.ioi(smollm2, n=8, seed=0, templates="when-went")
    assert made.clean_tokens.shape == (8, 14) and set(made.positions["S2"].tolist()) == {9}
    return made


@pytest.fixture(scope="module")
def effects(smollm2, task):
    """Sweep all 270 heads."""
    return hl.patch_sweep(smollm2, task, progress=False)


def test_the_model_knows_who_is_meant(smollm2):
    task = hl.tasks.ioi(smollm2, n=32, seed=1)
    with torch.no_grad():
        logits = smollm2(task.clean_tokens)
    last = logits[torch.arange(32), task.positions["END"]]
    difference = last.gather(1, task.answers[:, None]) - last.gather(1, task.foils[:, None])
    assert difference.mean() > 2 and (difference > 0).float().mean() > 0.9


def test_the_known_heads_come_out(effects):
    assert effects.values.shape == (30, 9)
    ranked = effects.top(8)
    value = dict(zip(ranked["label"], ranked["value"], strict=True))
    assert ranked["label"][0] == "L23H3" and value["L23H3"] > 0.3
    assert value["L20H0"] > 0.1 and effects.values[19, 2] > 0.05 and value["L24H4"] < -0.15


def peer(model, task, cells, setter, columns, direction="denoising"):
    """Patch the given cells by TransformerLens's own function on the same weights; movement in logits."""
    from transformer_lens import patching

    bridge, rows = model.to_bridge(), torch.arange(len(task))
    base, source = task.corrupted_tokens, task.clean_tokens
    if direction == "noising":
        base, source = source, base

    def metric(logits):
        last = logits[:, -1]
        return (last[rows, task.answers] - last[rows, task.foils]).mean()

    with torch.no_grad():
        _, cache = bridge.run_with_cache(source, names_filter=lambda name: name.endswith("hook_z"))
        unpatched = metric(bridge(base))
        index = pandas.DataFrame(cells, columns=columns)
        found = patching.generic_activation_patch(
            bridge, base, cache, metric, getattr(patching, setter), "z", index_df=index
        )
    return (found - unpatched).numpy() * (1 if direction == "denoising" else -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("direction", "layers"), [("denoising", range(30)), ("noising", range(2, 30, 3))], ids=["denoising", "noising"]
)
def test_every_head_equals_transformer_lens(smollm2, task, direction, layers):
    few = task.subset([2, 5])
    effects = hl.patch_sweep(smollm2, few, direction=direction, progress=False)
    every = [(layer, head) for layer in layers for head in range(9)]
    want = peer(smollm2, few, every, "layer_head_vector_patch_setter", ["layer", "head"], direction).reshape(-1, 9)
    np.testing.assert_allclose(effects.samples.mean(0)[[*layers]], want, rtol=0, atol=1e-4)
    assert np.abs(want).max() > 1


def test_positions_equal_transformer_lens(smollm2, task):
    few = task.subset([0, 3])
    effects = hl.patch_sweep(smollm2, few, axes=("layer", "head", "pos"), direction="noising", progress=False)
    cells = [(23, 13, 3), (17, 10, 4), (20, 9, 0), (3, 8, 1), (29, 13, 1)]
    columns = ["layer", "pos", "head"]
    want = peer(smollm2, few, cells, "layer_pos_head_vector_patch_setter", columns, "noising")
    found = [effects.samples[:, layer, head, pos].mean() for layer, pos, head in cells]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)
    assert np.abs(want).max() > 0.1


def test_the_demo_command_from_end_to_end(tmp_path):
    first = subprocess.run([COMMAND, "demo", "--n", "4"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "smollm2-135m: 270 heads on 4 pairs of ioi in" in first.stdout and "\n  L23H3 " in first.stdout
    run = tmp_path / "runs" / "ioi"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert json.loads((run / "headmap.json").read_text())["shape"] == [30, 9]
    again = subprocess.run([COMMAND, "demo", "--n", "4"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "finished chunks were there already" in again.stdout
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
