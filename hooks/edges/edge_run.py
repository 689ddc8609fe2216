"""Run a model with only some of its edges left, exactly, for many sets of edges at once.

A receiver reads  sum_s a_s + sum_{s: edge left} (u_s - a_s) + biases,  where u_s is what the sender computes in this
run and a_s what it writes ablated (2304.14997, and the evaluation of 2403.17806). With all edges left that is the plain
run, with none the ablated one.

Layer by layer every distinct input is run once (`Versions`): receivers and cells that read the same share it. So cells
that differ in late layers only share everything below, senders whose word reaches nobody are not run, and neither are
those that read nothing but what the ablated run wrote.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.hooks.base_run import Joining
from headlens.hooks.edges.edge_ground import Ground
from headlens.hooks.edges.edge_versions import Versions
from headlens.hooks.entering import Entry
from headlens.hooks.intercept import Attention, listening
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.replay import replay
from headlens.hooks.wiring import Wiring, wiring_of

# Rows (inputs x prompts x positions) that one call of a block aims at.
_ROWS = 1536


@torch.no_grad()
def run_edges(model: Model, ground: Ground, kept: np.ndarray, read: Read) -> Float[Tensor, "cell prompt token"]:
    """The logits at the last position with only the edges `kept`, booleans [cell, sender, receiver] in wiring's order.

    What is held grows with the number of different things that senders write: up to cells x senders x prompts x
    positions x d_model numbers where each cell is another. ValueError for edges that the model does not have.
    """
    wiring = wiring_of(model)
    if kept.dtype != bool or kept.shape[1:] != wiring.possible.shape or (kept & ~wiring.possible).any():
        raise ValueError(
            f"Edges of shape {kept.shape} ({kept.dtype}) were given; expected booleans [cell, sender, receiver] of "
            f"{wiring.possible.shape} senders and receivers, and True at edges of the model alone."
        )
    run = _EdgeRun(model, wiring, ground, Versions(kept))
    with listening(model.hf):
        run.embed()
        for layer in range(model.n_layers):
            run.heads(layer)
            run.mlp(layer)
    return run.logits(replace(read, last=1))


@dataclass(frozen=True, eq=False)
class _EdgeRun:
    """One group of prompts on its way up."""

    model: Model
    wiring: Wiring
    ground: Ground
    versions: Versions

    @cached_property
    def _places(self) -> dict[tuple[str, int], slice]:
        """Where the senders and receivers of each kind and layer stand."""
        found: dict[tuple[str, int], slice] = {}
        for nodes in (self.wiring.senders, self.wiring.receivers):
            for at, node in enumerate(nodes):
                # an MLP sends from another place than it receives at
                key = ("mlp sends" if node.kind == "mlp" and nodes is self.wiring.senders else node.kind, node.layer)
                found[key] = slice(found[key].start if key in found else at, at + 1)
        return found

    def embed(self) -> None:
        """The embedding of the clean prompts."""
        cells = np.flatnonzero(self.versions.speaks(slice(0, 1)))
        if len(cells):
            difference = self.ground.embedding - self.ground.ablated.embedding
            self.versions.write(cells, np.zeros_like(cells), np.zeros_like(cells), difference[None])

    def heads(self, layer: int) -> None:
        """One layer's heads, each of which reads its query and its group's key and value from inputs of their own."""
        heads, places, wiring = self._places["head", layer], self._places, self.wiring
        speaks = self.versions.speaks(heads)
        groups = np.array([wiring.group(head) for head in range(wiring.n_heads)])
        shared = np.stack([speaks[:, groups == group].any(1) for group in range(wiring.n_kv_heads)], 1)
        columns = np.r_[places["q", layer], places["k", layer], places["v", layer]]
        inputs = self.versions.inputs(columns, np.concatenate([speaks, shared, shared], 1))
        query, key, value = np.split(inputs.of, [wiring.n_heads, wiring.n_heads + wiring.n_kv_heads], 1)
        reads = np.stack([query, key[:, groups], value[:, groups]], 2)
        moving = speaks & (reads.any(2) if self.ground.is_run else True)
        if not moving.any():
            return
        used, local = np.unique(reads[moving], return_inverse=True)
        # heads that do not move read whatever is there: nobody listens
        reads[:] = 0
        reads[moving] = local.reshape(-1, 3)
        calls = self._calls(layer, inputs.rows[used], known=self.ground.is_run and not used[0])
        patterns, of_cell = np.unique(reads.reshape(len(reads), -1), axis=0, return_inverse=True)
        z = self._attended(layer, calls, patterns.reshape(len(patterns), wiring.n_heads, 3))
        cells, own = np.nonzero(moving)
        _, first, which = np.unique(np.c_[own, reads[moving]], axis=0, return_index=True, return_inverse=True)
        speakers, spoken = torch.from_numpy(own[first]), torch.from_numpy(of_cell.reshape(-1)[cells[first]])
        ablated = self.ground.ablated.z[layer][:, :, speakers].permute(2, 0, 1, 3)
        apart = z[spoken, :, :, speakers] - ablated
        weights = self.model.layers[layer].output_weights(wiring.n_heads)[speakers].to(apart)
        written = torch.einsum("npsd,ndm->npsm", apart, weights)
        self.versions.write(cells, heads.start + own, which.reshape(-1), written)

    def mlp(self, layer: int) -> None:
        """One layer's MLP, if there is one."""
        kind = self.wiring.mlps[layer]
        if kind == "none":
            return
        place, column = self._places["mlp sends", layer], self._places["mlp", layer]
        speaks = self.versions.speaks(place)
        inputs = self.versions.inputs(np.r_[column], speaks)
        moving = (speaks & (inputs.of.astype(bool) if self.ground.is_run else True))[:, 0]
        ablated = self.ground.ablated.mlp[layer]
        if not moving.any() or ablated is None:
            return
        used, which = np.unique(inputs.of[moving, 0], return_inverse=True)
        stream = (self.ground.between if kind == "after" else self.ground.before)[layer]
        written = [
            self.ground.parts[layer].mlp(some.flatten(0, 1)).unflatten(0, (len(some), -1)) - ablated
            for some in self._streams(inputs.rows[used], stream)
        ]
        cells = np.flatnonzero(moving)
        self.versions.write(cells, np.full_like(cells, place.start), which.reshape(-1), torch.cat(written))

    def logits(self, read: Read) -> Float[Tensor, "cell prompt token"]:
        column = len(self.wiring.receivers) - 1
        inputs = self.versions.inputs(np.r_[column], np.ones((len(self.versions.kept), 1), bool))
        used, which = np.unique(inputs.of[:, 0], return_inverse=True)
        behind = {"model": self.model, "base": self.ground.base, "start": self.ground.base.start, "read": read}
        found = [
            replay(entries={self.model.n_layers: Entry("block", some)}, later={}, **behind)[:, :, -1]
            for some in self._streams(inputs.rows[used], self.ground.before[-1][:, -1:])
        ]
        return torch.cat(found)[torch.from_numpy(which.reshape(-1))]

    def _calls(self, layer: int, rows: np.ndarray, known: bool) -> Attention:
        """Queries, keys and values [input x prompt ...] of inputs; of a `known` first one those of the ablated run."""
        parts, start = self.ground.parts[layer], self.ground.base.start
        made = [
            parts.attention(some.flatten(0, 1)) for some in self._streams(rows[int(known) :], self.ground.before[layer])
        ]
        of_run = self.ground.base.layers[layer].call
        of_run = of_run.with_inputs(of_run.query, of_run.key[:, :, start:], of_run.value[:, :, start:])
        every = [of_run, *made] if known else made
        query, key, value = (torch.cat([getattr(call, name) for call in every]) for name in ("query", "key", "value"))
        return made[0].with_inputs(query, key, value)

    def _attended(
        self, layer: int, calls: Attention, patterns: np.ndarray
    ) -> Float[Tensor, "pattern prompt suffix head d_head"]:
        """z where each head's query, key and value are those of its own inputs, `patterns` [pattern, head, 3]."""
        prompts, groups = len(self.ground.embedding), (self.wiring.n_kv_heads, -1)
        several = [each.unflatten(0, (-1, prompts)) for each in (calls.query, calls.key, calls.value)]
        at_once, kept, found = self._at_once(self.ground.embedding), self.ground.base.layers[layer].call, []
        for some in torch.from_numpy(patterns).split(at_once):
            # of a group's heads those that move read the same; the others have 0 here
            chosen = [some[..., 0], *(some[..., at].unflatten(1, groups).amax(2) for at in (1, 2))]
            assembled = [
                each[which, :, torch.arange(which.shape[1])].transpose(1, 2).flatten(0, 1)
                for each, which in zip(several, chosen, strict=True)
            ]
            joining = Joining(kept, len(some), self.ground.base.start, 0)
            z, _ = joining(self.model.layers[layer].attention, calls.with_inputs(*assembled))
            found.append(z.unflatten(0, (len(some), -1)))
        return torch.cat(found)

    def _streams(self, rows: np.ndarray, ablated: Tensor) -> list[Float[Tensor, "input prompt pos d_model"]]:
        """Inputs, as many at once as fill a batch."""
        at_once = self._at_once(ablated)
        parts = [rows[at : at + at_once] for at in range(0, len(rows), at_once)]
        return [self.versions.streams(part, ablated) for part in parts]

    @staticmethod
    def _at_once(stream: Float[Tensor, "prompt pos d_model"]) -> int:
        return max(1, _ROWS // (stream.shape[0] * stream.shape[1]))
