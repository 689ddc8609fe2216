"""The attention sinks of some prompts: counts and mass by head, tables by token, the group of exactly these keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from headlens.analyses.headmap import HeadMap
from headlens.analyses.massive import MassiveActivations
from headlens.analyses.prompt_tokens import PromptTokens
from headlens.analyses.sinks_in_words import in_words
from headlens.hooks.groups import KINDS, Chosen
from headlens.hooks.row_blocks import Block
from headlens.hooks.sink_rule import SinkRule
from headlens.hooks.sites import Head

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Sinks:
    """What `find_sinks` found. As a group of keys it stands for `rule`, which each run applies anew; `fixed()` is these
    very tokens. NaN where no row sees a key, as at padding."""

    rule: SinkRule
    share: Float32[np.ndarray, "prompt layer head pos"]  # of the rows that see the key: those in which it is a sink
    received: Float32[np.ndarray, "prompt layer head pos"]  # attention per row that sees the key, over all rows
    times: Float32[np.ndarray, "prompt layer head pos"]  # the rule's bound, at most, where it is a sink; else 0
    rows: Float32[np.ndarray, "prompt layer pos"]  # how many rows see the key
    prompts: PromptTokens
    massive: MassiveActivations
    provenance: Mapping[str, Any]
    clusters: tuple[str, ...] = ()  # one label per prompt: those that share one are a cluster of the bootstrap

    @cached_property
    def flagged(self) -> Bool[np.ndarray, "prompt layer head pos"]:
        """Keys that are a sink in any row."""
        return self.share > 0

    @property
    def tokens(self) -> Int[Tensor, "prompt pos"] | None:
        """The token ids that were run."""
        return self.prompts.ids

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The text of each token; empty without a tokenizer."""
        return self.prompts.texts

    @property
    def real(self) -> Bool[Tensor, "prompt pos"]:
        """False at padding."""
        return self.prompts.real

    @property
    def candidates(self) -> Bool[np.ndarray, "prompt pos"]:
        """The tokens that could be sinks: all real ones, without the first unless the rule takes it."""
        could = self.real.numpy().copy()
        if not self.rule.first:
            could[range(len(could)), self.prompts.firsts] = False
        return could

    def counts(self) -> HeadMap:
        """How many tokens of a prompt are sinks of each head, over (layer, head), with each prompt's number."""
        return self._map(
            self.flagged.sum(-1), "attention sinks", "tokens per prompt", "Larger means that more tokens are sinks."
        )

    def mass(self) -> HeadMap:
        """A row's attention to tokens that are sinks in any row, mean over rows, over (layer, head), by prompt."""
        given = np.nansum(np.where(self.flagged, self.received * self.rows[:, :, None], 0), -1)
        lengths = self.real.sum(1).numpy()[:, None, None]
        sign = "Larger means that more attention goes to sinks; 1 is all of it."
        return self._map(given / lengths, "attention to sinks", "attention per row", sign)

    def positions(self, layer: int, head: int, prompt: int = 0) -> list[int]:
        """Where a head's sinks are in a prompt, padding counted."""
        return np.flatnonzero(self.flagged[prompt, layer, head]).tolist()

    def fixed(self) -> Chosen:
        """The group of exactly these tokens in exactly these heads, for edits of runs of the same prompts.

        A run may go on behind them, or stop before their end. One of other prompts is a ValueError.
        """
        return Chosen(self._in_block)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per sink: label, prompt, layer, head, pos, token, kind, first_repeat, share, received, times."""
        import pandas

        at = np.argwhere(self.flagged)
        places = [(int(prompt), int(pos)) for prompt, _, _, pos in at]
        columns: dict[str, Any] = {"label": [f"{Head(layer, head)}@{pos}" for _, layer, head, pos in at]}
        columns |= {dim: at[:, axis] for axis, dim in enumerate(("prompt", "layer", "head", "pos"))}
        columns["token"] = [self.prompts.text(*place) for place in places]
        columns["kind"] = [self.prompts.kind(*place) for place in places]
        columns["first_repeat"] = [bool(self.prompts.first_repeats[place]) for place in places]
        for name in ("share", "received", "times"):
            columns[name] = getattr(self, name)[self.flagged]
        return pandas.DataFrame(columns)

    def by_kind(self) -> "pandas.DataFrame":
        """Which tokens are sinks: kind, how many sinks are of it, which share of_sinks, and which share of_tokens.

        of_tokens is about all that could be sinks. Two rows more: first_repeat, of whatever kind, and usual, which is
        punctuation, newline or first_repeat.
        """
        import pandas

        could, often = self.candidates, self.flagged.sum((1, 2))
        masks: dict[str | None, np.ndarray] = {}
        if self.prompts.kinds:
            kinds = np.array(self.prompts.kinds, object)
            masks |= {kind: kinds == kind for kind in (*KINDS, None) if (kinds == kind).any()}
        masks |= {"first_repeat": self.prompts.first_repeats, "usual": self.prompts.usual}
        return pandas.DataFrame(
            [
                {
                    "kind": kind,
                    "sinks": int(often[mask].sum()),
                    "of_sinks": often[mask].sum() / often.sum() if often.any() else np.nan,
                    "of_tokens": could[mask].sum() / could.sum() if could.any() else np.nan,
                }
                for kind, mask in masks.items()
            ]
        )

    def described(self) -> str:
        """How many (layer, head, token) triples are sinks, on which tokens, of which heads, and what makes them so."""
        return in_words(self)

    def _map(self, samples: np.ndarray, name: str, units: str, sign: str) -> HeadMap:
        return HeadMap.from_samples(
            samples.astype(np.float32),
            dims=("layer", "head"),
            name=name,
            units=units,
            sign=sign,
            clusters=self.clusters,
            provenance={**self.provenance, "rule": self.rule.plain()},
        )

    def _in_block(self, block: Block) -> Bool[Tensor, "prompt head 1 key"]:
        self._check_same(block)
        own = torch.tensor(self.flagged[:, block.layer, list(block.heads)])
        known = block.keys.cpu() < own.shape[-1]
        found = torch.zeros(*own.shape[:2], len(known), dtype=torch.bool)
        found[..., known] = own[..., block.keys.cpu()[known]]
        return found[:, :, None].to(block.keys.device)

    def _check_same(self, block: Block) -> None:
        same = len(block.scores) == len(self.real)
        for given, mine in ((block.clock.tokens, self.tokens), (block.clock.real, self.real)):
            if same and given is not None and mine is not None:
                length = min(given.shape[1], mine.shape[1])
                same = torch.equal(given[:, :length].cpu(), mine[:, :length])
        if not same:
            raise ValueError(
                f"These sinks were found in {len(self.real)} prompts, and a run of others is edited with them; run the "
                "same prompts, or give the sinks themselves, whose rule finds those of any run."
            )
