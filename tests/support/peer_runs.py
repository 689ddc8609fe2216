"""A tiny model as TransformerLens runs it, with a clean cache and a corrupted run to patch."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformer_lens import patching as peer

from headlens.compat import patching
from headlens.hooks.bridge import to_bridge
from tiny_models import held, inputs_for

LENGTH, START = 5, 2


@dataclass(frozen=True, eq=False)
class PeerRun:
    """A bridge, the tokens that are patched, and caches of the clean and the corrupted run."""

    bridge: Any
    tokens: Tensor
    clean_tokens: Tensor
    clean: Any
    corrupted: Any


@cache
def peer_run(name: str) -> PeerRun:
    """Two prompts of five tokens of which the third differs."""
    tokens = inputs_for(name, length=LENGTH)["input_ids"]
    clean_tokens = tokens.clone()
    clean_tokens[:, START] = (tokens[:, START] + 31) % 80 + 4
    bridge = to_bridge(held(name))
    with torch.no_grad():
        clean, corrupted = (bridge.run_with_cache(ids)[1] for ids in (clean_tokens, tokens))
    return PeerRun(bridge, tokens, clean_tokens, clean, corrupted)


def difference(logits: Tensor) -> Tensor:
    """One token's logit minus another's at the last position, for each prompt."""
    return logits[:, -1, 5] - logits[:, -1, 50]


def mean_difference(logits: Tensor) -> Tensor:
    return difference(logits).mean()


def first_tokens(logits: Tensor) -> Tensor:
    """The log probability of each prompt's own tokens: every position is read."""
    ids = torch.arange(5, 5 + logits.shape[1] - 1)
    return logits.log_softmax(-1)[:, :-1].gather(2, ids.expand(len(logits), -1)[..., None]).mean((1, 2))


def both(function, name, metric=mean_difference, cache=None, run=None, **kwargs):
    """What headlens and TransformerLens make of the same call."""
    run = run or peer_run(name)
    arguments = (run.bridge, run.tokens, run.clean if cache is None else cache, metric)
    return tuple(getattr(home, function)(*arguments, **kwargs) for home in (patching, peer))


def same(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def moved(name, values, metric=mean_difference):
    """How many cells are not the unpatched run."""
    run = peer_run(name)
    return int(((values - metric(run.bridge(run.tokens))).abs() > 1e-3).sum())
