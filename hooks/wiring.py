"""Who can read whom: everything that writes into a model's residual stream, and everything that reads it.

Senders are the embedding, each head and each MLP. Receivers are the query of each head, the key and the value of each
key/value head (which query heads of a group share), each MLP, and the logits. An edge joins a sender to a receiver that
computes after it (edges as in 2310.10348 and 2403.17806, with shared keys and values counted once).
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from headlens.hooks.model import Model

EMBED, LOGITS = "embed", "logits"


class Node(NamedTuple):
    """A sender or a receiver: what it is, and where. `head` counts key/value heads where `kind` is k or v."""

    kind: str  # embed, head, q, k, v, mlp or logits
    layer: int = -1
    head: int = -1

    def __str__(self) -> str:
        match self.kind:
            case "head":
                return f"L{self.layer}H{self.head}"
            case "q":
                return f"L{self.layer}H{self.head}.q"
            case "k" | "v":
                return f"L{self.layer}KV{self.head}.{self.kind}"
            case "mlp":
                return f"MLP{self.layer}"
        return self.kind


@dataclass(frozen=True)
class Wiring:
    """A model's senders and receivers, in the order in which they compute.

    `mlps[layer]` says where the layer's MLP is: "after" its attention, "beside" it (parallel blocks), or "none".
    """

    n_heads: int
    n_kv_heads: int
    mlps: tuple[str, ...]

    @property
    def n_layers(self) -> int:
        return len(self.mlps)

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        nodes = [Node("embed")]
        for layer, mlp in enumerate(self.mlps):
            nodes += [Node("head", layer, head) for head in range(self.n_heads)]
            nodes += [Node("mlp", layer)] if mlp != "none" else []
        return tuple(nodes)

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        nodes = []
        for layer, mlp in enumerate(self.mlps):
            nodes += [Node("q", layer, head) for head in range(self.n_heads)]
            nodes += [Node(kind, layer, head) for kind in ("k", "v") for head in range(self.n_kv_heads)]
            nodes += [Node("mlp", layer)] if mlp != "none" else []
        return (*nodes, Node("logits", self.n_layers))

    @cached_property
    def possible(self) -> np.ndarray:
        """Booleans [sender, receiver]: which edges there are."""
        rows = [[self.reads(receiver, sender) for receiver in self.receivers] for sender in self.senders]
        return np.array(rows, bool)

    @cached_property
    def feeds(self) -> np.ndarray:
        """Booleans [receiver, sender]: which senders are made from a receiver's input; the logits make none."""
        rows = [[self._makes(receiver, sender) for sender in self.senders] for receiver in self.receivers]
        return np.array(rows, bool)

    def reads(self, receiver: Node, sender: Node) -> bool:
        """Whether the receiver's input holds what the sender writes."""
        if sender.layer < receiver.layer:
            return True
        after = receiver.kind == "mlp" and self.mlps[receiver.layer] == "after"
        return sender.layer == receiver.layer and sender.kind == "head" and after

    def _makes(self, receiver: Node, sender: Node) -> bool:
        if receiver.layer != sender.layer or (receiver.kind == "mlp") != (sender.kind == "mlp"):
            return False
        shared = receiver.kind in ("k", "v")
        return receiver.kind == "mlp" or receiver.head == (self.group(sender.head) if shared else sender.head)

    def group(self, head: int) -> int:
        """The key/value head that a query head reads."""
        return head * self.n_kv_heads // self.n_heads


def wiring_of(model: Model) -> Wiring:
    """The wiring of a model's main tower."""
    mlps = tuple("none" if each.mlp is None else "beside" if each.middle is None else "after" for each in model.layers)
    return _wiring(model.n_heads, model.n_kv_heads, mlps)


@cache
def _wiring(n_heads: int, n_kv_heads: int, mlps: tuple[str, ...]) -> Wiring:
    """One for all runs of equal models, since its matrices take longer to make than a small run."""
    return Wiring(n_heads, n_kv_heads, mlps)
