"""The circuit: the part of a model that is said to do a task, as the edges that are kept."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.arrays import load_arrays, save_arrays
from headlens.hooks.sites import Head, parse_heads
from headlens.hooks.wiring import EMBED, LOGITS, Node, Wiring

if TYPE_CHECKING:
    import networkx
    import pandas

    from headlens.analyses.circuits.evaluation import Evaluation
    from headlens.analyses.task import Task
    from headlens.hooks.model import Model

FORMAT = "headlens-circuit/1"


@dataclass(frozen=True, eq=False)
class Circuit:
    """Which edges of a model's wiring belong to the circuit. A value: nothing in it can be changed.

    `kept` are booleans [sender, receiver] in the order of `wiring`. `scores` [sender, receiver] and `node_scores`
    [sender], NaN where unknown, are what edges and nodes were chosen by; positive carries the clean behaviour. `roles`
    name what nodes do ("L23H3": "name mover"). Two circuits are equal if they keep the same edges of the same wiring.
    """

    wiring: Wiring
    kept: np.ndarray
    name: str = "circuit"
    scores: np.ndarray | None = None
    node_scores: np.ndarray | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.wiring.possible.shape
        for key, dtype, expected in (
            ("kept", bool, shape),
            ("scores", np.float32, shape),
            ("node_scores", np.float32, shape[:1]),
        ):
            value = getattr(self, key)
            if value is None:
                continue
            array = np.array(value, dtype)
            if array.shape != expected:
                raise ValueError(f"{key} of shape {array.shape} was given for a wiring that has {expected}.")
            array.setflags(write=False)
            object.__setattr__(self, key, array)
        wrong = np.argwhere(self.kept & ~self.wiring.possible)
        if len(wrong):
            sender, receiver = self.wiring.senders[wrong[0][0]], self.wiring.receivers[wrong[0][1]]
            raise ValueError(f"{receiver} computes before {sender} and cannot read it; leave that edge out.")
        known = {str(node) for node in self.wiring.senders}
        for node in self.roles:
            if node not in known:
                raise ValueError(f"A role was given for {node!r}, which this model does not have.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.wiring == other.wiring and np.array_equal(self.kept, other.kept)

    def __hash__(self) -> int:
        return hash((self.wiring, self.kept.tobytes()))

    @classmethod
    def of_nodes(
        cls, wiring: Wiring, heads: Iterable[Any] | str, mlps: Iterable[int] | str = "all", **fields: Any
    ) -> "Circuit":
        """All edges among some heads, some MLPs (all of them unless layers are given), the embedding and the logits."""
        chosen = {*parse_heads(heads, wiring.n_layers, wiring.n_heads)}
        layers = set(range(wiring.n_layers)) if isinstance(mlps, str) and mlps == "all" else {int(at) for at in mlps}
        groups = {(head.layer, wiring.group(head.head)) for head in chosen}

        def inside(node: Node) -> bool:
            match node.kind:
                case "head" | "q":
                    return Head(node.layer, node.head) in chosen
                case "k" | "v":
                    return (node.layer, node.head) in groups
                case "mlp":
                    return node.layer in layers
            return True

        senders, receivers = (np.array([inside(n) for n in side]) for side in (wiring.senders, wiring.receivers))
        return cls(wiring, wiring.possible & senders[:, None] & receivers[None], **fields)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The senders that write to something and, but for the embedding, read something."""
        return tuple(node for node, is_in in zip(self.wiring.senders, self._working(self.kept), strict=True) if is_in)

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(Head(node.layer, node.head) for node in self.nodes if node.kind == "head")

    @property
    def mlps(self) -> tuple[int, ...]:
        """The layers whose MLPs belong to the circuit."""
        return tuple(node.layer for node in self.nodes if node.kind == "mlp")

    @cached_property
    def is_of_heads(self) -> bool:
        """Whether these are all edges among some heads, all MLPs, the embedding and the logits."""
        return self == Circuit.of_nodes(self.wiring, self.heads)

    def without(self, nodes: Iterable[str]) -> "Circuit":
        """Without all edges from and into these nodes, named "L3H1" or "MLP3".

        A key or value that heads outside `nodes` share keeps its edges.
        """
        gone = {*nodes}
        senders = np.array([str(node) in gone for node in self.wiring.senders])
        if senders.sum() < len(gone):
            raise ValueError(f"{sorted(gone)} are not all nodes of this model; write them as 'L3H1' or 'MLP3'.")
        feeds, working = self.wiring.feeds, self._working(self.kept)
        lost = np.any(feeds[:, senders], 1) & ~np.any(feeds[:, working & ~senders], 1)
        return replace(self, kept=self.kept & ~senders[:, None] & ~lost[None])

    @property
    def n_edges(self) -> int:
        return int(self.kept.sum())

    def pruned(self) -> "Circuit":
        """Without the edges of nodes that read nothing or that nothing reads, over and over until none is left.

        What the first say is the same whatever the prompt, and what the second say never arrives.
        """
        feeds, kept = self.wiring.feeds, self.kept
        to_logits = np.array([node.kind == LOGITS for node in self.wiring.receivers])
        while True:
            working = self._working(kept)
            fewer = kept & working[:, None] & (to_logits | feeds[:, working].any(1))
            if np.array_equal(fewer, kept):
                return replace(self, kept=kept)
            kept = fewer

    def _working(self, kept: np.ndarray) -> np.ndarray:
        """Which senders write and read, as booleans [sender]."""
        embedding = np.array([node.kind == EMBED for node in self.wiring.senders])
        return kept.any(1) & (embedding | self.wiring.feeds[kept.any(0)].any(0))

    def to_frame(self) -> "pandas.DataFrame":
        """One row per edge, strongest first: sender, receiver, score (NaN where unknown)."""
        import pandas

        scores = np.full(self.kept.shape, np.nan, np.float32) if self.scores is None else self.scores
        rows, columns = np.nonzero(self.kept)
        frame = pandas.DataFrame(
            {
                "sender": [str(self.wiring.senders[row]) for row in rows],
                "receiver": [str(self.wiring.receivers[column]) for column in columns],
                "score": scores[rows, columns],
            }
        )
        return frame.sort_values("score", key=lambda score: -score.abs(), kind="stable", ignore_index=True)

    def described(self) -> str:
        """One sentence: how many heads, MLPs and edges, of how many."""
        wiring, heads = self.wiring, self.heads
        names = ", ".join(map(str, heads[:12])) + (", ..." if len(heads) > 12 else "")
        return (
            f"{self.name}: {len(heads)} of {wiring.n_layers * wiring.n_heads} heads ({names}), {len(self.mlps)} MLPs, "
            f"{self.n_edges} of {int(wiring.possible.sum())} edges."
        )

    def evaluate(self, model: "Model", task: "Task", ablation: str = "other", **options: Any) -> "Evaluation":
        """Faithfulness, completeness and minimality on a task: see `headlens.analyses.circuits.evaluation.evaluate`."""
        from headlens.analyses.circuits.evaluation import evaluate

        return evaluate(self, model, task, ablation, **options)

    def to_networkx(self) -> "networkx.MultiDiGraph":
        """The circuit as a graph: see `headlens.analyses.circuits.graph`, which also reads one back."""
        from headlens.analyses.circuits.graph import to_networkx

        return to_networkx(self)

    def to_graphml(self, path: str | Path) -> None:
        """Write GraphML, which Gephi, Cytoscape and yEd read."""
        from headlens.analyses.circuits.graph import write_graphml

        write_graphml(self, path)

    def to_node_link(self, path: str | Path) -> None:
        """Write networkx's node-link JSON, which D3 and others draw."""
        from headlens.analyses.circuits.graph import write_node_link

        write_node_link(self, path)

    def to_eap(self, model: "Model", path: str | Path) -> None:
        """Write EAP-IG's graph JSON, which MIB's tools score: see `headlens.analyses.circuits.eap_json`."""
        from headlens.analyses.circuits.eap_json import write_eap_json

        write_eap_json(self, path, model.d_model)

    @classmethod
    def from_eap(cls, model: "Model", path: str | Path) -> "Circuit":
        """Read EAP-IG's graph JSON of this model."""
        from headlens.analyses.circuits.eap_json import read_eap_json

        return read_eap_json(model, path)

    def save(self, path: str | Path) -> None:
        """Write the circuit to one safetensors file, atomically."""
        arrays = {"kept": self.kept, "scores": self.scores, "node_scores": self.node_scores}
        about = {
            "format": FORMAT,
            "name": self.name,
            "wiring": {**asdict(self.wiring), "mlps": [*self.wiring.mlps]},
            "roles": dict(self.roles),
            "provenance": dict(self.provenance),
        }
        save_arrays(Path(path), {key: array for key, array in arrays.items() if array is not None}, about)

    @classmethod
    def load(cls, path: str | Path) -> "Circuit":
        """Read what `save` wrote. ValueError for a damaged file or one of another kind."""
        arrays, about = load_arrays(Path(path))
        if about.pop("format", None) != FORMAT:
            raise ValueError(f"{path} holds no circuit of the format {FORMAT!r}.")
        sizes = about.pop("wiring")
        return cls(Wiring(**{**sizes, "mlps": tuple(sizes["mlps"])}), **arrays, **about)

    def __repr__(self) -> str:
        return f"Circuit({self.name!r}: {len(self.heads)} heads, {len(self.mlps)} MLPs, {self.n_edges} edges)"
