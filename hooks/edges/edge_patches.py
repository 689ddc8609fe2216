"""Patch single edges: one receiver reads what one sender writes in another run, and everything behind it is recomputed.

The edge's receiver is worked out from an input of its own at its layer, and enters a replay as what its block then
says: nothing below is run again. The same as a run with every edge left but one (`hooks/edges/edge_run.py`), at the
price of a patched head.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headlens.hooks.base_run import Base, Joining
from headlens.hooks.block_parts import BlockParts, block_parts
from headlens.hooks.edges.node_values import NodeValues, record_values
from headlens.hooks.entering import Entry
from headlens.hooks.intercept import listening
from headlens.hooks.model import Model
from headlens.hooks.output import first_tensor
from headlens.hooks.reading import Read
from headlens.hooks.replay import replay
from headlens.hooks.sweep import ROWS
from headlens.hooks.wiring import Node, Wiring, wiring_of

_READ = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True)
class Edge:
    """From what one node writes to what another reads."""

    sender: Node
    receiver: Node


@dataclass(frozen=True, eq=False)
class EdgePatches:
    """A group of same-length prompts in both runs, which agree before `base.start`."""

    model: Model
    wiring: Wiring
    base: Base
    other: Base
    parts: tuple[BlockParts, ...]
    values: tuple[NodeValues, NodeValues]  # of the base run and of the other
    read: Read

    @classmethod
    def of(
        cls, model: Model, base: Int[Tensor, "prompt pos"], other: Int[Tensor, "prompt pos"], start: int, read: Read
    ) -> "EdgePatches":
        """Run both. ValueError for a model whose residual stream is not a sum of what its senders write."""
        (kept, own), (kept_other, across) = (record_values(model, tokens, start) for tokens in (base, other))
        return cls(model, wiring_of(model), kept, kept_other, block_parts(model, kept), (own, across), read)

    def unpatched(self) -> tuple[Float[Tensor, "prompt token"], Float[Tensor, "prompt token"]]:
        """Logits at the last position of the base run and of the other."""
        base, other = (
            replay(
                self.model, run, {self.model.n_layers: Entry("block", _out(run, -1)[None])}, run.start, self.read, {}
            )
            for run in (self.base, self.other)
        )
        return base[0, :, -1], other[0, :, -1]

    @torch.no_grad()
    def patched(self, edges: Sequence[Edge]) -> Float[Tensor, "edge prompt token"]:
        """Logits at the last position with each of these edges patched by itself."""
        prompts, suffix = self.values[0].embedding.shape[:2]
        at_once, found = max(1, ROWS // (prompts * suffix)), {}
        # a replay has entries of one kind, in the order of layers
        for inside in (True, False):
            of_kind = [at for at, edge in enumerate(edges) if (edge.receiver.kind in _READ) == inside]
            of_kind.sort(key=lambda at: edges[at].receiver.layer)
            for first in range(0, len(of_kind), at_once):
                some = of_kind[first : first + at_once]
                with listening(self.model.hf):
                    entries = self._entries([edges[at] for at in some])
                logits = replay(self.model, self.base, entries, self.base.start, self.read, {})[:, :, -1]
                found |= zip(some, logits, strict=True)
        return torch.stack([found[at] for at in range(len(edges))])

    def _entries(self, edges: Sequence[Edge]) -> dict[int, Entry]:
        """The edges' cells in ascending order of their receivers' layers, which say where they enter."""
        by_layer: dict[int, list[Edge]] = defaultdict(list)
        for edge in edges:
            by_layer[edge.receiver.layer].append(edge)
        if edges[0].receiver.kind in _READ:
            return {layer: Entry("attention", self._attended(layer, own)) for layer, own in by_layer.items()}
        # an MLP's cell enters behind its block, and one of the logits behind the last block
        last = self.model.n_layers
        entries = {at + 1: [self._behind(at, own)] for at, own in by_layer.items() if at < last}
        if last in by_layer:
            at_end = torch.stack([_out(self.base, -1) + self.apart(edge.sender) for edge in by_layer[last]])
            entries.setdefault(last, []).append(at_end)
        return {layer: Entry("block", torch.cat(values)) for layer, values in entries.items()}

    def apart(self, sender: Node) -> Float[Tensor, "prompt suffix d_model"]:
        """What the sender writes in the other run, less what it writes in the base run."""
        base, other = self.values
        if sender.kind == "embed":
            return other.embedding - base.embedding
        if sender.kind == "head":
            difference = other.z[sender.layer][:, :, sender.head] - base.z[sender.layer][:, :, sender.head]
            return difference @ self.model.layers[sender.layer].output_weights(self.wiring.n_heads)[sender.head]
        of_base, of_other = base.mlp[sender.layer], other.mlp[sender.layer]
        assert of_base is not None and of_other is not None  # it is one of the wiring's senders
        return of_other - of_base

    def _attended(self, layer: int, edges: Sequence[Edge]) -> Float[Tensor, "edge prompt suffix d_model"]:
        """What a layer's attention returns where one query, key or value of it reads through its edge."""
        kept, start = self.base.layers[layer], self.base.start
        senders = list(dict.fromkeys(edge.sender for edge in edges))
        streams = torch.stack([kept.resid_pre + self.apart(sender) for sender in senders])
        heard, base = self.parts[layer].attention(streams.flatten(0, 1)), kept.call
        # the base run in front of its cells: what is not changed cancels
        calls = {
            "query": base.query.repeat(1 + len(edges), 1, 1, 1),
            "key": base.key[:, :, start:].repeat(1 + len(edges), 1, 1, 1),
            "value": base.value[:, :, start:].repeat(1 + len(edges), 1, 1, 1),
        }
        for at, edge in enumerate(edges):
            name, head = _READ[edge.receiver.kind], edge.receiver.head
            own, its_sender = (self._rows(place) for place in (1 + at, senders.index(edge.sender)))
            calls[name][own, head] = getattr(heard, name)[its_sender, head]
        call = heard.with_inputs(**calls)
        z, _ = Joining(base, 1 + len(edges), start, 0)(self.model.layers[layer].attention, call)
        z = z.unflatten(0, (1 + len(edges), -1))
        speaking = torch.stack([self._speaking(edge.receiver) for edge in edges]).to(z.device)
        difference = torch.where(speaking[:, None, None, :, None], z[1:] - z[:1], 0).flatten(3)
        weights = self.model.layers[layer].output_weights(self.wiring.n_heads).flatten(0, 1)
        return first_tensor(kept.attention_out) + difference @ weights.to(difference)

    def _behind(self, layer: int, edges: Sequence[Edge]) -> Float[Tensor, "edge prompt suffix d_model"]:
        """What a block returns where its MLP reads through its edge."""
        kept, own = self.base.layers[layer], self.values[0].mlp[layer]
        assert own is not None  # it is one of the wiring's receivers
        stream = kept.resid_pre
        if self.wiring.mlps[layer] == "after":
            stream = stream + first_tensor(kept.attention_out)
        streams = torch.stack([stream, *(stream + self.apart(edge.sender) for edge in edges)])
        written = self.parts[layer].mlp(streams.flatten(0, 1)).unflatten(0, (1 + len(edges), -1))
        return _out(self.base, layer) + (written[1:] - written[:1])

    def _rows(self, cell: int) -> slice:
        prompts = len(self.base.tokens)
        return slice(cell * prompts, (cell + 1) * prompts)

    def _speaking(self, receiver: Node) -> Bool[Tensor, " head"]:
        """The query heads that say something else where this receives something else."""
        heads = range(self.wiring.n_heads)
        shared = receiver.kind in ("k", "v")
        return torch.tensor([receiver.head == (self.wiring.group(head) if shared else head) for head in heads])


def _out(base: Base, layer: int) -> Float[Tensor, "prompt suffix d_model"]:
    return first_tensor(base.layers[layer].block_out)
