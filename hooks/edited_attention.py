"""What a layer's heads say when something inside its attention is replaced.

Heads do not see each other within a layer. So all of them are edited in one call, and a cell takes the heads it names.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headlens.hooks.intercept import Attention
from headlens.kernels.reference import attention_pattern, weighted_values


def edited_z(
    site: str,
    call: Attention,
    z: Float[Tensor, "prompt query head d_head"],
    source: Float[Tensor, "prompt ..."],
    chosen: Bool[Tensor, "prompt query"],
    key: int | None,
) -> Float[Tensor, "prompt query head d_head"]:
    """`z` of the last `query` positions with the site's activation of every head replaced by `source` at the chosen
    rows (and at one key of them, for patterns and scores).

    `call` has the queries of these positions and the keys and values of all; `source` has the site's axes, over these
    positions as rows (or keys, at `rot_k` and `v`).
    """
    rows = chosen[:, None, :, None]  # prompt head query width
    match site:
        case "z":
            return torch.where(chosen[:, :, None, None], source, z)
        case "rot_q":
            return replace(call, query=torch.where(rows, source.transpose(1, 2), call.query)).z()
        case "rot_k":
            return replace(call, key=_at_the_end(call.key, source.transpose(1, 2), rows)).z()
        case "v":
            return replace(call, value=_at_the_end(call.value, source.transpose(1, 2), rows)).z()
        case "attn_scores":
            scores = torch.where(_entries(rows, key, source), source, call.scores())
            return weighted_values(attention_pattern(scores, call.sinks), call.value)
        case _:
            pattern = torch.where(_entries(rows, key, source), source, call.pattern())
            return weighted_values(pattern, call.value)


def _at_the_end(whole: Tensor, source: Tensor, rows: Tensor) -> Tensor:
    """`whole` [prompt kv_head key d], its last positions taken from `source` where `rows` says so."""
    prefix, suffix = whole.split([whole.shape[2] - source.shape[2], source.shape[2]], 2)
    return torch.cat([prefix, torch.where(rows, source, suffix)], 2)


def _entries(rows: Tensor, key: int | None, source: Tensor) -> Tensor:
    """The entries of a pattern that are replaced: whole rows, or one key of each."""
    if key is None:
        return rows
    return rows & (torch.arange(source.shape[3], device=rows.device) == key)
