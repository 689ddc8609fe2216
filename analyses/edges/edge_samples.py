"""EdgeEffects: what patching single edges did to each prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.uncertainty import Interval, ratio_interval, ratio_of_means
from headlens.hooks.edges.edge_patches import Edge
from headlens.hooks.wiring import Wiring

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class EdgeEffects:
    """Effects of single edges: `samples` [edge, prompt] in the metric's units; `scale` [prompt] is clean - corrupted.

    Positive means that the edge carries the clean behaviour.
    """

    edges: tuple[Edge, ...]
    samples: np.ndarray
    scale: np.ndarray
    wiring: Wiring
    units: str
    sign: str
    clusters: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.samples.setflags(write=False)
        self.scale.setflags(write=False)

    @cached_property
    def values(self) -> np.ndarray:
        """Each edge's effect [edge]: mean of samples / mean of scale; 1 restores (denoising) or destroys everything."""
        return ratio_of_means(self.samples.T, self.scale).astype(np.float32)

    def ci(self, level: float = 0.95, seed: int = 0) -> Interval:
        """Bootstrap intervals [edge], resampling clusters of prompts."""
        return ratio_interval(self.samples.T, self.scale, self.clusters, level, seed=seed)

    def to_frame(self, level: float = 0.95) -> "pandas.DataFrame":
        """One row per edge, in the order given: sender, receiver, value, and low and high where there are two prompts
        or more."""
        import pandas

        columns: dict[str, Any] = {
            "sender": [str(edge.sender) for edge in self.edges],
            "receiver": [str(edge.receiver) for edge in self.edges],
            "value": self.values,
        }
        if len(self.scale) > 1:
            interval = self.ci(level)
            columns |= {"low": interval.low, "high": interval.high}
        return pandas.DataFrame(columns)

    def to_map(self) -> EdgeMap:
        """The values among all edges of the model, NaN at those that were not patched."""
        whole = np.full(self.wiring.possible.shape, np.nan, np.float32)
        senders, receivers = (
            {node: at for at, node in enumerate(nodes)} for nodes in (self.wiring.senders, self.wiring.receivers)
        )
        for edge, value in zip(self.edges, self.values, strict=True):
            whole[senders[edge.sender], receivers[edge.receiver]] = value
        return EdgeMap(whole, self.wiring, "edge patching effect", self.units, self.sign, self.provenance)
