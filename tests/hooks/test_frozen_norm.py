"""Norms recognised by probing, and their linear part against autograd through a norm written out by hand."""

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from headlens.hooks.frozen_norm import freeze_norm


def with_random_weights(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return module


KINDS = {
    "llama": (lambda width: LlamaRMSNorm(width), False),
    "gemma": (lambda width: Gemma2RMSNorm(width), False),
    "layer norm": (lambda width: nn.LayerNorm(width), True),
    "layer norm without bias": (lambda width: nn.LayerNorm(width, bias=False), True),
    "layer norm without weights": (lambda width: nn.LayerNorm(width, elementwise_affine=False), True),
    "large eps": (lambda width: nn.RMSNorm(width, eps=0.1), False),
}


@pytest.mark.parametrize("width", [32, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_pulled_back_sum_to_the_normed_whole(kind, width):
    make, centred = KINDS[kind]
    module, draw = with_random_weights(make(width)), torch.Generator().manual_seed(1)
    norm = freeze_norm(module, width)
    assert norm.centred == centred
    parts, direction = (torch.randn(n, 5, width, generator=draw) + 0.4 for n in (7, 1))
    back = norm.pulled_back(direction[0], parts.sum(0))
    with torch.no_grad():
        whole = ((module(parts.sum(0)) - module(torch.zeros(5, width))) * direction[0]).sum(-1)
    torch.testing.assert_close((parts * back).sum((0, -1)), whole, rtol=1e-4, atol=1e-4)


def test_the_statistics_of_a_part_do_not_matter():
    """One part is scaled by the whole's statistics, not by its own."""
    module = with_random_weights(nn.LayerNorm(32))
    whole, part, direction = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(4))
    deviation = (whole - whole.mean()).square().mean().add(module.eps).sqrt()
    with torch.no_grad():
        expected = ((part - part.mean()) / deviation * module.weight * direction).sum()
    found = (part * freeze_norm(module, 32).pulled_back(direction, whole)).sum()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_modules_are_read_in_full():
    module = with_random_weights(LlamaRMSNorm(32)).to(torch.bfloat16)
    norm = freeze_norm(module, 32)
    torch.testing.assert_close(norm.weight, module.weight.detach().float(), rtol=1e-5, atol=1e-6)
    assert next(module.parameters()).dtype == torch.bfloat16


def test_a_vector_of_zeros_says_nothing():
    back = freeze_norm(nn.LayerNorm(8), 8).pulled_back(torch.ones(1, 8), torch.zeros(1, 8))
    assert (back == 0).all()


class Batched(nn.Module):
    def forward(self, x):
        return x / x.square().mean().sqrt()


@pytest.mark.parametrize(
    "module", [nn.Identity(), nn.Linear(32, 32), nn.Linear(32, 16), nn.GroupNorm(4, 32), nn.Softmax(-1), Batched()]
)
def test_what_is_no_norm_is_refused_by_name(module):
    with pytest.raises(ValueError, match=f"{type(module).__name__} is neither an RMSNorm nor a LayerNorm"):
        freeze_norm(module, 32)
