"""Who writes the answer: the logit difference as a sum over embedding, attention layers, MLPs and biases.

The residual stream is a sum, and with its statistics frozen the final norm is linear, so what each part writes can be
read off by itself (direct logit attribution, 2211.00593 section 3; the frozen norm is that of 2405.00208).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.end_runs import EndRun, end_runs
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.analyses.uncertainty import ratio_interval
from headlens.hooks.model import Model
from headlens.hooks.readout import Readout, find_readout, rounding
from headlens.hooks.sites import Site

if TYPE_CHECKING:
    import pandas

METHOD = "direct logit attribution, final norm frozen at END"
WRITES = {"attention": "attn_out", "mlp": "mlp_out"}


@dataclass(frozen=True)
class Part:
    """One term of the sum: what writes it ("embedding", "attention", "mlp", "final norm bias", "unembedding bias") and
    in which layer."""

    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"L{self.layer} {self.kind}"


@dataclass(frozen=True, eq=False)
class DirectParts:
    """What each part writes into the logit difference, per prompt: `samples` sum over parts to `total`."""

    parts: tuple[Part, ...]
    samples: np.ndarray  # prompt part
    total: np.ndarray  # prompt: the model's own logit difference
    units: str
    clusters: tuple[str, ...]
    sign: str = "Positive means that the part speaks for the answer, negative for the foil."
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.samples.setflags(write=False)
        self.total.setflags(write=False)

    @property
    def values(self) -> np.ndarray:
        """The mean over prompts of each part."""
        return self.samples.mean(0)

    def to_frame(self, level: float = 0.95) -> "pandas.DataFrame":
        """One row per part: part, kind, layer (missing for what has none), value, and low and high where there are two
        prompts or more."""
        import pandas

        columns: dict[str, Any] = {
            "part": [str(part) for part in self.parts],
            "kind": [part.kind for part in self.parts],
            "layer": pandas.array([part.layer for part in self.parts], "Int64"),
            "value": self.values,
        }
        if len(self.samples) > 1:
            interval = ratio_interval(self.samples, np.ones(len(self.samples)), self.clusters, level)
            columns |= {"low": interval.low, "high": interval.high}
        return pandas.DataFrame(columns)


def direct_parts(model: Model, task: Task, run: str = "clean", memory: str | int | None = "1GiB") -> DirectParts:
    """Split answer logit minus foil logit at each prompt's END into what every part of the model writes directly.

    The parts are the embedding (with positions), each layer's attention with its bias and each layer's MLP, behind
    their post-norms where there are any, through the final norm with the statistics of that very position; and the
    biases of final norm and unembedding. They sum to the model's logit difference; to the one before the cap in a model
    that caps its logits (Gemma 2).

    Args:
        run: `"clean"` or `"corrupted"`, the prompts that are run.
        memory: bound on what a run holds; more prompts than fit run one group after the other.

    Raises:
        ValueError: for an unknown run, a model that is not a causal language model, whose final norm is neither an
            RMSNorm nor a LayerNorm, or whose parts do not sum to its logits.
    """
    readout, parts = find_readout(model), parts_of(model)
    samples, total = np.zeros((len(task), len(parts)), np.float32), np.zeros(len(task), np.float32)
    for end in end_runs(model, task, run, sites_of(model), memory):
        split = split_logits(model, readout, end)
        samples[[*end.prompts]], total[[*end.prompts]] = split.parts.cpu().numpy(), split.total.cpu().numpy()
    provenance = {**origin(model, task), "run": run, "method": METHOD}
    return DirectParts(parts, samples, total, units_of(readout), task.templates, provenance=provenance)


def parts_of(model: Model) -> tuple[Part, ...]:
    """The parts of a model, in the order in which they write."""
    written = [Part(kind, at) for at, layer in enumerate(model.layers) for kind in WRITES if layer.has(WRITES[kind])]
    return Part("embedding"), *written, Part("final norm bias"), Part("unembedding bias")


def sites_of(model: Model) -> list[Site]:
    """What must be recorded for `split_logits`: what each part writes, and the stream that they sum to."""
    written = [Site(WRITES[part.kind], part.layer) for part in parts_of(model) if part.layer is not None]
    return [Site("resid_pre", 0), *written, Site("resid_post", model.n_layers - 1)]


@dataclass(frozen=True, eq=False)
class Split:
    """The logit difference of some prompts, before a soft cap: its parts, their sum, and the direction of the residual
    stream that writes it."""

    parts: Float[Tensor, "prompt part"]
    total: Float[Tensor, " prompt"]
    direction: Float[Tensor, "prompt d_model"]


def split_logits(model: Model, readout: Readout, end: EndRun) -> Split:
    """Split each prompt's logit difference into `parts_of(model)`; ValueError if they do not sum to it."""
    *sites, last = sites_of(model)
    resid = end.at(last.name, last.layer)
    direction = readout.direction(resid, end.answers, end.foils)
    said = [(end.at(site.name, site.layer) * direction).sum(-1) for site in sites]
    parts = torch.stack([*said, *readout.biases(end.answers, end.foils)], 1)
    total = readout.difference(resid, end.answers, end.foils)
    gap = (parts.sum(1) - total).abs()
    if (gap > rounding(model.dtype) * parts.abs().sum(1)).any():
        raise ValueError(
            f"Embedding, attention and MLPs of {model.name!r} do not sum to its logit difference (off by "
            f"{float(gap.max()):.2g}), since {type(model.layers[-1].block).__name__} does more than add them up; so "
            "nothing can be attributed to them."
        )
    return Split(parts, total, direction)


def units_of(readout: Readout) -> str:
    """What logit differences are measured in."""
    return f"logits{'' if readout.cap is None else ' before the soft cap'} (answer minus foil)"
