"""Plain-torch attention arithmetic: the definition of correct, and what runs without a GPU.

Shapes follow transformers' attention interface: query [batch, head, query, d_head], key and value
[batch, kv_head, key, d_head]; with grouped queries `head = kv_head * group`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def expand_groups(tensor: Float[Tensor, "batch kv_head key d"], n_heads: int) -> Float[Tensor, "batch head key d"]:
    """Repeat each key/value head for the query heads that read it."""
    batch, kv_heads, length, width = tensor.shape
    if kv_heads == n_heads:
        return tensor
    grouped = tensor[:, :, None].expand(batch, kv_heads, n_heads // kv_heads, length, width)
    return grouped.reshape(batch, n_heads, length, width)


def attention_scores(
    query: Float[Tensor, "batch head query d"],
    key: Float[Tensor, "batch kv_head key d"],
    allowed: Bool[Tensor, "#batch #head #query key"] | None,
    scaling: float,
    bias: Float[Tensor, "#batch head query key"] | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "batch head query key"]:
    """Scaled dot products; forbidden keys are -inf.

    `bias` is added before the soft cap `c * tanh(score / c)`, as T5 and Gemma-2 respectively use them.
    """
    # large products are finite in half precision if scaled before; in float32 it is done as transformers does it
    early, late = (scaling, 1.0) if query.dtype.itemsize < 4 else (1.0, scaling)
    # the query heads of a group are rows of one product, so that no key is copied
    rows = (query * early).reshape(len(query), key.shape[1], -1, query.shape[3])
    scores = torch.matmul(rows, key.transpose(2, 3)).reshape(*query.shape[:3], -1) * late
    if bias is not None:
        scores = scores + bias
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)


def attention_pattern(
    scores: Float[Tensor, "batch head query key"], sinks: Float[Tensor, " head"] | None = None
) -> Float[Tensor, "batch head query key"]:
    """Softmax over keys in at least float32; learned sink logits (gpt-oss) take their share and are dropped.

    A row with no allowed key (padding) is uniform, as in transformers' eager attention, so that the
    padded positions of deeper layers stay finite. No allowed position ever reads such a row.
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    empty = wide.amax(-1, keepdim=True) == -torch.inf
    wide = wide.masked_fill(empty, 0.0)
    if sinks is None:
        return torch.softmax(wide, -1).to(scores.dtype)
    column = sinks.to(wide.dtype).reshape(1, -1, 1, 1).expand(*wide.shape[:3], 1)
    return torch.softmax(torch.cat([wide, column], -1), -1)[..., :-1].to(scores.dtype)


def weighted_values(
    pattern: Float[Tensor, "batch head query key"], value: Float[Tensor, "batch kv_head key d"]
) -> Float[Tensor, "batch query head d"]:
    """Mix the values by the pattern: TransformerLens's `z`."""
    rows = pattern.reshape(len(pattern), value.shape[1], -1, pattern.shape[3])
    return torch.matmul(rows, value).reshape(*pattern.shape[:3], -1).transpose(1, 2).contiguous()


def shared_prefix_attention(
    query: Float[Tensor, "cell prompt head query d"],
    key: Float[Tensor, "cell prompt kv_head suffix d"],
    value: Float[Tensor, "cell prompt kv_head suffix d"],
    prefix_key: Float[Tensor, "prompt kv_head prefix d"],
    prefix_value: Float[Tensor, "prompt kv_head prefix d"],
    allowed: Bool[Tensor, "#prompt 1 query key"],
    scaling: float,
) -> Float[Tensor, "cell prompt query head d"]:
    """`z` of many variants (cells) of each prompt that share the keys and values of its first `prefix` positions.

    `key` of the mask counts prefix and suffix together. A long prefix is read once per prompt: all cells and the query
    heads of a group are the rows of one product. A short one is copied to every cell, which moves less than putting
    the queries into that order and their results back.
    """
    group = query.shape[2] // key.shape[2]
    arranged = _copied_prefix if prefix_key.shape[2] <= group * query.shape[3] else _read_once_prefix
    return arranged(query * scaling, key, value, prefix_key, prefix_value, allowed)


def _copied_prefix(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, allowed: Tensor
) -> Tensor:
    cells, prompts, heads, queries, width = query.shape
    kv_heads = key.shape[2]
    key = torch.cat([prefix_key.expand(cells, -1, -1, -1, -1), key], 3).flatten(0, 2)
    value = torch.cat([prefix_value.expand(cells, -1, -1, -1, -1), value], 3).flatten(0, 2)
    rows = query.reshape(cells * prompts * kv_heads, -1, width)
    scores = torch.bmm(rows, key.transpose(1, 2)).reshape(cells, prompts, heads, queries, -1)
    pattern = _short_softmax(scores.masked_fill_(~allowed, -torch.inf)).reshape(*rows.shape[:2], -1)
    z = torch.bmm(pattern, value).reshape(cells, prompts, heads, queries, width)
    return z.transpose(2, 3).contiguous()


def _read_once_prefix(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, allowed: Tensor
) -> Tensor:
    cells, prompts, heads, queries, width = query.shape
    kv_heads, prefix = prefix_key.shape[1:3]
    rows = query.reshape(cells, prompts, kv_heads, -1, width).permute(1, 2, 0, 3, 4).contiguous()
    of_prefix = rows.flatten(2, 3) @ prefix_key.transpose(2, 3)
    of_suffix = rows @ key.permute(1, 2, 0, 4, 3)
    scores = torch.cat([of_prefix.unflatten(2, rows.shape[2:4]), of_suffix], -1)
    # prompt kv_head cell group query key: the mask is the same for every cell and head
    scores = scores.unflatten(3, (-1, queries)).masked_fill_(~allowed[:, :, None, None], -torch.inf)
    pattern = _short_softmax(scores).flatten(3, 4)
    z = (pattern[..., :prefix].flatten(2, 3) @ prefix_value).unflatten(2, rows.shape[2:4])
    z = z + pattern[..., prefix:] @ value.permute(1, 2, 0, 3, 4)
    # prompt kv_head cell group query d -> cell prompt query head d
    return z.unflatten(3, (-1, queries)).permute(2, 0, 4, 1, 3, 5).reshape(cells, prompts, queries, heads, width)


def _short_softmax(scores: Tensor) -> Tensor:
    # torch.softmax takes five times as long on rows this short; every query sees itself, so the maximum is finite
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = torch.exp(wide - wide.amax(-1, keepdim=True))
    return (weights / weights.sum(-1, keepdim=True)).to(scores.dtype)


def head_delta(
    source: Float[Tensor, "prompt pos head d"],
    base: Float[Tensor, "prompt pos head d"],
    output_weights: Float[Tensor, "head d d_model"],
) -> Float[Tensor, "head prompt pos d_model"]:
    """What the residual stream gains when one head's `z` is replaced: `(z_source - z_base) @ W_O[head]`."""
    difference = (source - base).permute(2, 0, 1, 3)  # head prompt pos d
    flat = difference.reshape(difference.shape[0], -1, difference.shape[-1])
    return torch.bmm(flat, output_weights).reshape(*difference.shape[:3], -1)
