"""Attention scores of a run's newest rows, raised at image patches: what PAI (2407.21771) and its successors write.

A row is the newest of its call: the last token of the prompt, and then each token that a cached run generates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.hooks.clock import Clock, ticking
from headlens.hooks.edits import Call, Heads, Pos, check_positions
from headlens.hooks.model import Model
from headlens.hooks.sites import Site, parse_heads
from headlens.hooks.taps import Where

# Layers 0 and 1 are left out: PAI's code has 2 to 31 of 32.
FIRST_LAYER = 2

Strength = Callable[[Clock], Float[Tensor, "batch pos"]]
# Of scores (0 at hidden keys), strength, and which keys are visible; it returns scores.
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """A function for a Call at `attn_scores`: scores of each newest row are the rule's, where strength is not 0. Keys
    that the row may not see stay hidden, and no other row is touched.

    `strength` is told the clock of the run, and says how strongly each absolute position is raised.
    """

    model: Model
    heads: Mapping[int, Sequence[int]]
    strength: Strength
    rule: Rule
    since: Pos = None

    def __post_init__(self) -> None:
        check_positions(self.since)

    def edit(self) -> Call:
        """The edit, for `model.edited`."""
        names = {str(Site("attn_scores", layer)) for layer in self.heads}
        return Call(names.__contains__, self)

    def __call__(
        self, scores: Float[Tensor, "batch head row key"], hook: Where
    ) -> Float[Tensor, "batch head row key"] | None:
        queries = torch.arange(hook.query_start, hook.query_start + scores.shape[2], device=scores.device)
        keys = torch.arange(hook.key_start, hook.key_start + scores.shape[3], device=scores.device)
        # the clock of the run under way, which knows its tokens
        with ticking(self.model.hf) as clock:
            own = (
                _newest(clock, queries, len(scores)) if self.since is None else self._from(clock, queries, len(scores))
            )
            known = self.strength(clock).to(scores.device)
        # a static cache has keys behind the newest token, seen by nobody
        strength = known[:, keys.clamp(max=known.shape[1] - 1)][:, None, None]
        rows = own.any(0).nonzero()[:, 0]
        if not len(rows) or not bool(strength.any()):
            return None
        heads = torch.as_tensor(self.heads[hook.layer()], device=scores.device)
        part = scores[:, heads][:, :, rows]
        visible = part != -torch.inf
        wide = part.masked_fill(~visible, 0).float()
        raised = self.rule(wide, strength, visible).to(part.dtype)
        moving = visible & (strength != 0) & own[:, None, rows, None]
        # in place: a Call is given a copy
        scores[:, heads[:, None], rows] = torch.where(moving, raised, part)
        return scores

    def _from(self, clock: Clock, queries: Int[Tensor, " row"], batch: int) -> Bool[Tensor, "batch row"]:
        since = torch.as_tensor(self.since, device=queries.device)
        if since.ndim and len(since) != batch:
            raise ValueError(
                f"since has {len(since)} entries for a batch of {batch}; give one position, or one for each prompt."
            )
        return (queries >= since.reshape(-1, 1)).expand(batch, -1) & _real(clock, queries)


def _newest(clock: Clock, queries: Int[Tensor, " row"], batch: int) -> Bool[Tensor, "batch row"]:
    """Each prompt's last row of this call that is no padding."""
    real = _real(clock, queries).expand(batch, -1)
    last = torch.where(real, queries, -1).amax(1, keepdim=True)
    return real & (queries == last)


def _real(clock: Clock, queries: Int[Tensor, " row"]) -> Bool[Tensor, "#batch row"]:
    if clock.real is None:
        return torch.ones(1, len(queries), dtype=torch.bool, device=queries.device)
    return clock.real.to(queries.device)[:, queries]


def image_positions(clock: Clock, token: int) -> Bool[Tensor, "batch pos"]:
    """Which tokens of the run under way, up to the newest, are image patches."""
    if clock.tokens is None:
        raise ValueError(
            "Scores at image patches need the token ids of the whole run, and it was given embeddings, or a cache that "
            "was filled before the edit; start inside the edit, from token ids."
        )
    return clock.tokens == token


def chosen_heads(model: Model, layers: Sequence[int] | None, heads: Heads | None) -> dict[int, list[int]]:
    """The heads of each edited layer: those of `layers`, or `heads`, or all of the layers from `FIRST_LAYER` on."""
    if layers is not None and heads is not None:
        raise ValueError("Both layers= and heads= were given; heads have their layers, so give one of them.")
    if heads is not None:
        found: dict[int, list[int]] = {}
        for layer, head in sorted({*parse_heads(heads, model.n_layers, model.n_heads)}):
            found.setdefault(layer, []).append(head)
        if not found:
            raise ValueError("heads= names no head; give one or more, such as 'L23H3'.")
        return found
    chosen = range(FIRST_LAYER, model.n_layers) if layers is None else layers
    if not len(chosen) or not all(0 <= layer < model.n_layers for layer in chosen):
        raise ValueError(
            f"layers={None if layers is None else [*layers]} were given (without any, 0 and 1 are left out); expected "
            f"some of 0..{model.n_layers - 1}."
        )
    return {layer: [*range(model.n_heads)] for layer in chosen}


def check_finite(**given: float) -> None:
    """ValueError for a strength that is not a finite number."""
    for name, value in given.items():
        if not math.isfinite(value):
            raise ValueError(f"{name}={value} was given; expected a finite number.")
