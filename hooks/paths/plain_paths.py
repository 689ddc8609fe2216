"""Path patching by two whole forwards per sender: the plain way, which the engine must equal.

A stage is tried on real senders before it is trusted, and falls back on this where replay is not exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from headlens.hooks.edits import Call
from headlens.hooks.model import Model
from headlens.hooks.paths.path_run import PathRun
from headlens.hooks.paths.path_stage import Stage
from headlens.hooks.plain import Plain
from headlens.hooks.sites import Head, Site
from headlens.hooks.sweep import Measure, Pairs
from headlens.hooks.taps import Where
from headlens.hooks.trial import why_not_exact
from headlens.hooks.wiring import Node

_SITES = {"q": "rot_q", "k": "rot_k", "v": "v"}


@dataclass(frozen=True, eq=False)
class PlainPaths:
    """A stage on one group of prompts, by whole forwards. `pairs` are of the site z."""

    runs: Plain
    stage: Stage

    @classmethod
    def of(cls, model: Model, pairs: Pairs, stage: Stage) -> "PlainPaths":
        return cls(Plain(model, pairs), stage)

    @property
    def base_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.runs.base_logits

    @property
    def other_logits(self) -> Float[Tensor, "prompt row token"]:
        return self.runs.other_logits

    def patched(self, senders: Sequence[Head], measure: Measure) -> Float[Tensor, "sender prompt ..."]:
        """See `PathRun.patched`."""
        return torch.cat([measure(self._logits(sender)[None]) for sender in senders])

    @cached_property
    def _mlp_outputs(self) -> dict[int, Tensor]:
        model = self.runs.model
        layers = [at for at, layer in enumerate(model.layers) if layer.has("mlp_out")]
        names = [str(Site("mlp_out", layer)) for layer in layers]
        with torch.no_grad():
            _, kept = model.record(self.runs.pairs.base, names_filter=names, budget=None)
        return {layer: kept[name] for layer, name in zip(layers, names, strict=True)}

    def _logits(self, sender: Head) -> Float[Tensor, "prompt row token"]:
        if not self.stage.columns:
            return self.base_logits
        reached = [node for node in self.stage.receivers if sender.layer < node.layer]
        names = [] if self.stage.into_logits else sorted({_site(node) for node in reached})
        logits, heard = self._run(self._sending(sender), names)
        if self.stage.into_logits:
            return logits
        edits = [self._exchanging(_site(node), heard[_site(node)], node.head) for node in reached]
        return self._run(edits, [])[0]

    def _sending(self, sender: Head) -> list[Call]:
        """The sender's other z, with all attention behind it frozen, and the MLPs if they are."""
        model, base, other = self.runs.model, self.runs.base_run[1], self.runs.other_run[1]
        layer, head = sender
        edits = [self._exchanging(str(Site("z", layer)), other[layer], head)]
        edits += [_standing(Site("z", later), base[later]) for later in range(layer + 1, model.n_layers)]
        if self.stage.mlps == "frozen":
            edits += [_standing(Site("mlp_out", at), kept) for at, kept in self._mlp_outputs.items() if at >= layer]
        return edits

    def _exchanging(self, name: str, source: Tensor, head: int) -> Call:
        return Call(name, partial(_exchange, source, head, list(self.stage.columns)))

    def _run(self, edits: list[Call], names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        model, pairs = self.runs.model, self.runs.pairs
        with torch.no_grad(), model.edited(*edits):
            logits, kept = model.record(pairs.base, names_filter=names, budget=None, logits_to_keep=1)
        logits = logits[:, -1:]
        tokens = pairs.read.tokens
        return logits if tokens is None else logits.gather(2, tokens[:, None]), kept


def why_not_by_replay(model: Model, pairs: Pairs, stage: Stage, senders: Sequence[Head]) -> str | None:
    """None if the engine is exact on this model, else the reason; tried on these senders of the first prompt."""
    engine, whole = (
        lambda alone, kind=kind: kind.of(model, alone, stage).patched(senders, lambda logits: logits)
        for kind in (PathRun, PlainPaths)
    )
    return why_not_exact(model, pairs, engine, whole)


def _site(node: Node) -> str:
    return str(Site(_SITES[node.kind], node.layer))


def _exchange(source: Tensor, head: int, columns: list[int], tensor: Tensor, hook: Where) -> Tensor:
    tensor[:, columns, head] = source[:, columns, head]
    return tensor


def _standing(site: Site, kept: Tensor) -> Call:
    return Call(str(site), lambda tensor, hook: kept)
