"""The plain arithmetic against sums written out one number at a time, and against torch's own attention."""

import math

import pytest
import torch
from torch.nn import functional

from headlens.kernels import reference


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def attention_by_hand(query, key, value, allowed, scaling, bias=None, softcap=None, sinks=None):
    """Pattern and z in Python floats, query by query."""
    batch, heads, queries, _ = query.shape
    group = heads // key.shape[1]
    pattern = torch.zeros(batch, heads, queries, key.shape[2], dtype=torch.float64)
    for b, h, q in [(b, h, q) for b in range(batch) for h in range(heads) for q in range(queries)]:
        scores = []
        for k in range(key.shape[2]):
            score = sum(x * y for x, y in zip(query[b, h, q].tolist(), key[b, h // group, k].tolist(), strict=True))
            score = score * scaling + (0.0 if bias is None else float(bias[0, h, q, k]))
            score = score if softcap is None else softcap * math.tanh(score / softcap)
            scores.append(score if allowed[q, k] else -math.inf)
        exponentials = [math.exp(score) for score in scores]
        total = sum(exponentials) + (0.0 if sinks is None else math.exp(float(sinks[h])))
        pattern[b, h, q] = torch.tensor([e / total for e in exponentials], dtype=torch.float64)
    z = torch.einsum("bhqk,bhkd->bqhd", pattern, value.double().repeat_interleave(group, 1))
    return pattern, z


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (3, 3), (5, 1)])
def test_attention_equals_sums_written_out(heads, kv_heads, softcap, sinks):
    query, key, value = draw(2, heads, 5, 7), draw(2, kv_heads, 5, 7, seed=1), draw(2, kv_heads, 5, 3, seed=2)
    allowed, bias = torch.ones(5, 5, dtype=torch.bool).tril(), draw(1, heads, 5, 5)
    sink = draw(heads) if sinks else None
    scores = reference.attention_scores(query, key, allowed[None, None], 0.4, bias, softcap)
    pattern = reference.attention_pattern(scores, sink)
    z = reference.weighted_values(pattern, value)
    want_pattern, want_z = attention_by_hand(query, key, value, allowed, 0.4, bias, softcap, sink)
    torch.testing.assert_close(pattern.double(), want_pattern, rtol=0, atol=1e-6)
    torch.testing.assert_close(z.double(), want_z, rtol=0, atol=1e-6)


def test_a_row_that_sees_nothing_is_uniform_and_finite():
    scores = torch.full((1, 1, 2, 4), -torch.inf)
    scores[0, 0, 1, 2] = 3.0
    assert reference.attention_pattern(scores).tolist() == [[[[0.25] * 4, [0, 0, 1, 0]]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (4, 4), (5, 1)])
@pytest.mark.parametrize(("prefix", "suffix"), [(9, 5), (0, 3), (1, 1), (17, 2)])
@pytest.mark.parametrize("windowed", [False, True])
def test_shared_prefixes_equal_torchs_attention_on_copies(prefix, suffix, heads, kv_heads, dtype, windowed):
    cells, prompts, width = 3, 2, 8
    query = draw(cells, prompts, heads, suffix, width, dtype=dtype)
    key, value = (draw(cells, prompts, kv_heads, suffix, width, dtype=dtype, seed=s) for s in (1, 2))
    prefix_key, prefix_value = (draw(prompts, kv_heads, prefix, width, dtype=dtype, seed=s) for s in (3, 4))
    causal = torch.ones(prefix + suffix, prefix + suffix, dtype=torch.bool).tril()
    if windowed:
        causal = causal & ~torch.ones_like(causal).tril(-4)
    allowed = causal[None, None, prefix:]
    found = reference.shared_prefix_attention(query, key, value, prefix_key, prefix_value, allowed, 0.3)
    whole = [
        torch.cat([own.expand(cells, *own.shape), new], 3) for own, new in ((prefix_key, key), (prefix_value, value))
    ]
    copies = [tensor.flatten(0, 1).float().repeat_interleave(heads // kv_heads, 1) for tensor in whole]
    want = functional.scaled_dot_product_attention(query.flatten(0, 1).float(), *copies, attn_mask=allowed, scale=0.3)
    tolerance = 2e-6 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.flatten(0, 1).float(), want.transpose(1, 2), rtol=0, atol=tolerance)


def test_hidden_keys_of_a_shared_prefix_are_never_read():
    query, key, value = draw(2, 1, 2, 3, 4), draw(2, 1, 2, 3, 4, seed=1), draw(2, 1, 2, 3, 4, seed=2)
    prefix_key, prefix_value = draw(1, 2, 2, 4, seed=3), draw(1, 2, 2, 4, seed=4)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()[None, None, 2:].clone()
    allowed[..., 0] = False
    plain = reference.shared_prefix_attention(query, key, value, prefix_key, prefix_value, allowed, 1.0)
    prefix_key[:, :, 0] = 1e9
    again = reference.shared_prefix_attention(query, key, value, prefix_key, prefix_value, allowed, 1.0)
    assert torch.equal(plain, again)


def test_a_heads_delta_is_its_difference_projected():
    source, base, weights = draw(2, 5, 3, 4), draw(2, 5, 3, 4, seed=1), draw(3, 4, 6)
    found = reference.head_delta(source, base, weights)
    for head in range(3):
        want = (source[:, :, head] - base[:, :, head]) @ weights[head]
        torch.testing.assert_close(found[head], want, rtol=0, atol=1e-6)
    everything = torch.einsum("pshd,hdm->psm", source - base, weights)
    torch.testing.assert_close(found.sum(0), everything, rtol=0, atol=1e-5)
