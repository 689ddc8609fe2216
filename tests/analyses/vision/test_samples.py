"""Samples with images, put together into batches."""

import pytest
import torch

from headlens.analyses.vision.samples import Samples


def one(length, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 90, (1, length), generator=draw)
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16, generator=draw)}


SAMPLES = Samples("some", tuple(one(length, at) for at, length in enumerate([5, 7, 5, 5, 7])), facts=({"at": 0},) * 5)


def test_equal_lengths_run_together_and_nothing_is_lost():
    seen = {}
    for indices, inputs in SAMPLES.batches(2):
        assert len(indices) <= 2 and len({len(tensor) for tensor in inputs.values()} | {len(indices)}) == 1
        for row, at in enumerate(indices):
            seen[at] = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
    assert [*sorted(seen)] == [0, 1, 2, 3, 4]
    for at, inputs in seen.items():
        assert all(torch.equal(inputs[name], SAMPLES.inputs[at][name]) for name in inputs)


def test_a_subset_keeps_the_order_that_is_asked():
    some = SAMPLES.subset([4, 1])
    assert len(some) == 2 and torch.equal(some.inputs[0]["input_ids"], SAMPLES.inputs[4]["input_ids"])
    assert some.clusters == ("sample 4", "sample 1") and some.facts[0] == {"at": 0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"answers": ("yes",)}, "1 answers were given for 5"),
        ({"inputs": ({"pixel_values": torch.zeros(1)},)}, "Sample 0"),
    ],
    ids=["answers", "ids"],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Samples(**{"name": "x", "inputs": SAMPLES.inputs, **fields})
