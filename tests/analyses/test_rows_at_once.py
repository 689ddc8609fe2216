"""`head_stats` by the kernels, in Triton's interpreter, beside the same block by block."""

import numpy as np
import pytest
import torch

from headlens.analyses import row_tally
from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.row_readings import STATISTICS
from headlens.hooks.groups import First, Recent
from headlens.kernels.dispatch import forced
from tiny_models import held, inputs_for

pytest.importorskip("triton")
GROUPS = {"start": First(2), "second": 1, "two": [First(1), 3]}


@pytest.fixture
def at_once(monkeypatch):
    """Whether each layer was read at once."""
    seen, real = [], row_tally.parts_at_once

    def noted(*given):
        seen.append((parts := real(*given)) is not None)
        return parts

    monkeypatch.setattr(row_tally, "parts_at_once", noted)
    return seen


def both(name, what, groups=None, padded=False, **more):
    """Maps block by block, and by the kernels."""
    model, inputs = held(name), dict(inputs_for(name))
    if padded:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["attention_mask"][0, :2] = 0
    given = (model, inputs, what)
    in_blocks = head_stats(*given, groups=groups, progress=False, **more)
    with forced("kernel"):
        return in_blocks, head_stats(*given, groups=groups, progress=False, **more)


def assert_same(in_blocks, by_kernel):
    assert [*in_blocks] == [*by_kernel]
    for name, wanted in in_blocks.items():
        np.testing.assert_allclose(by_kernel[name].samples, wanted.samples, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt_oss"])
def test_as_block_by_block(name, padded, at_once):
    what = tuple(each for each in STATISTICS if each != "divergence")
    assert_same(*both(name, what, GROUPS, padded))
    assert all(at_once[-held(name).n_layers :]) and not any(at_once[: held(name).n_layers])


def test_two_runs(at_once):
    other = {"input_ids": inputs_for("llama")["input_ids"].flip(1)}
    assert_same(*both("llama", ("divergence", "entropy"), other=other))
    assert at_once[-1]


def test_what_is_left_to_blocks(at_once):
    assert_same(*both("llama", ("entropy",), {"near": Recent(2)}))
    assert not any(at_once)


def test_edited_rows_are_read_in_blocks(at_once):
    from headlens.hooks.row_edits import Temperature

    with held("llama").edited(Temperature("all", 2.0)):
        assert_same(*both("llama", ("entropy", "first_token")))
    assert not at_once
