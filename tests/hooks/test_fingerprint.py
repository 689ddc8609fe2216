"""The weights' digest: the same for the same weights, another for any change, however it was made."""

import pytest
import torch

from headlens.hooks.fingerprint import weights_hash
from tiny_models import tiny


def swap_rows(weight):
    weight.data[[0, 1]] = weight.data[[1, 0]]


def nudge(weight):
    weight.data[3, 2] = torch.nextafter(weight.data[3, 2], torch.tensor(9.0))


def replace(weight):
    weight.data = weight.data.flip(0)


def test_equal_weights_have_equal_digests_on_any_number_of_threads():
    threads, digests = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            digests.add(weights_hash(tiny("llama")))
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1


@pytest.mark.parametrize("change", [swap_rows, nudge, replace])
def test_any_change_is_seen(change):
    hf = tiny("llama")
    before = weights_hash(hf)
    change(hf.model.layers[1].mlp.up_proj.weight)
    assert weights_hash(hf) != before


def test_names_shapes_and_types_count():
    hf = torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.zeros(2, 3))})
    others = [
        torch.nn.ParameterDict({"b": torch.nn.Parameter(torch.zeros(2, 3))}),
        torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.zeros(3, 2))}),
        torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.int32), requires_grad=False)}),
    ]
    assert len({weights_hash(module) for module in [hf, *others]}) == 4
