"""Output nodes: which heads and MLPs write the answer themselves, how many of them it takes, and what they are worth.

    direct effect of a node = what it writes at END . final norm' (W_U[right letter] - mean of W_U[other letters])

with the final norm's statistics frozen at that very position (2307.09458, direct logit attribution to the centred
logits of the option letters).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlens.analyses.direct_parts import METHOD, Split, parts_of, sites_of, split_logits, units_of
from headlens.analyses.end_runs import EndRun, end_runs
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.headmap import HeadMap
from headlens.analyses.multiple_choice.estimates import estimate
from headlens.analyses.multiple_choice.options import CENTRED, MEASURE, against_all, has_options, options_of
from headlens.analyses.patching import run_plan
from headlens.analyses.provenance import origin
from headlens.analyses.sweep_plan import plan
from headlens.analyses.task import Task
from headlens.analyses.uncertainty import resample_counts
from headlens.analyses.uncertainty import units_of as units_resampled
from headlens.hooks.head_output import head_output
from headlens.hooks.model import Model
from headlens.hooks.readout import Readout, find_readout
from headlens.hooks.sites import Head, Site, parse_head

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Needed:
    """How many of the ranked nodes it takes, of `of` in all, with the bounds of the interval over prompts."""

    count: int
    low: int
    high: int
    of: int


@dataclass(frozen=True, eq=False)
class OutputNodes:
    """What each node writes for the answer, in logits, and what patching it costs.

    `direct` [prompt, node] and `rest` [prompt] (embedding and biases) sum to `logit`, the model's own number before a
    soft cap. `total` [prompt, node] is NaN where it was not asked for. Nodes stand as they write; tables are ranked.
    """

    nodes: tuple[str, ...]  # "L23H3", "MLP23"
    direct: np.ndarray
    rest: np.ndarray
    logit: np.ndarray
    total: np.ndarray
    clusters: tuple[str, ...]
    units: str
    sign: str = (
        "Positive means that the node writes for the answer (direct), or that the answer's logit falls with the "
        "corrupted run's activation in its place (total)."
    )
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ranked(self) -> tuple[str, ...]:
        """All nodes, the largest mean direct effect first."""
        return tuple(self.nodes[at] for at in self._order)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads alone, the largest mean direct effect first."""
        return tuple(node for node in self.ranked if node.startswith("L"))

    @property
    def _order(self) -> np.ndarray:
        return np.argsort(-self.direct.mean(0), kind="stable")

    def needed(self, share: float = 0.9, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Needed:
        """How many nodes, from the strongest on, write this share of what all nodes with a positive mean write.

        The net sum would be passed early and come back, since nodes that write against the answer take from it. In each
        resample of the prompts the nodes keep their ranks, and those with a positive mean are counted anew. The count
        itself is of the prompts that the ranks come from, and so is on the low side: where effects are mostly noise the
        bounds lie far above it.

        ValueError for a share that is not above 0 and at most 1, or where no node has a positive mean.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share={share} was given; expected a part of the positive effects, such as 0.9.")
        if not (self.direct.mean(0) > 0).any():
            raise ValueError("No node writes for the answer, so there is no positive total to reach.")
        ranked = self.direct[:, self._order].astype(np.float64)
        counts = resample_counts(units_resampled(self.clusters), resamples, seed)
        drawn = counts @ ranked
        counted = _reaching(drawn[(drawn > 0).any(1)], share)
        low, high = np.quantile(counted, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        return Needed(int(_reaching(ranked.mean(0)[None], share)[0]), int(low), int(high), len(self.nodes))

    def headmap(self) -> HeadMap:
        """The heads' direct effects as a map over (layer, head)."""
        heads = [(at, parse_head(node)) for at, node in enumerate(self.nodes) if node.startswith("L")]
        size = max(head for _, head in heads)
        samples = np.full((len(self.direct), size.layer + 1, max(h.head for _, h in heads) + 1), np.nan, np.float32)
        for at, head in heads:
            samples[:, head.layer, head.head] = self.direct[:, at]
        return HeadMap.from_samples(
            samples,
            dims=("layer", "head"),
            name="direct effect",
            units=self.units,
            sign=self.sign,
            clusters=self.clusters,
            provenance=self.provenance,
        )

    def to_frame(self, level: float = 0.95) -> "pandas.DataFrame":
        """One row per node, strongest first: node, kind, layer, head (missing for an MLP), direct and total in logits
        with their bounds, and cumulative: the share of the positive total that is written up to this row."""
        import pandas

        order = self._order
        direct, total = (estimate(each[:, order], self.clusters, level) for each in (self.direct, self.total))
        nodes = [self.nodes[at] for at in order]
        heads = [parse_head(node) if node.startswith("L") else None for node in nodes]
        layers = [int(node[3:]) if head is None else head.layer for node, head in zip(nodes, heads, strict=True)]
        positive = np.maximum(direct.value, 0)
        with np.errstate(invalid="ignore"):
            cumulative = positive.cumsum() / positive.sum()
        columns: dict[str, Any] = {
            "node": nodes,
            "kind": ["mlp" if head is None else "head" for head in heads],
            "layer": layers,
            "head": pandas.array([None if head is None else head.head for head in heads], "Int64"),
            **direct.columns("direct"),
            "cumulative": cumulative,
            **total.columns("total"),
        }
        return pandas.DataFrame(columns)


def output_nodes(
    model: Model,
    task: Task,
    total: int = 10,
    *,
    source: str = "other",
    seed: int = 0,
    memory: str | int = "1GiB",
    progress: bool = True,
) -> OutputNodes:
    """Rank heads and MLPs by what they write at END of the clean prompts into the answer's logit (2307.09458).

    With options (`headlens.tasks.lettered`) this is the logit of the right letter minus the mean of the other letters';
    else the answer's minus the foil's, as in `direct_logits`.

    Args:
        total: how many nodes, from the strongest on, to patch too: the fall of the same number when the node's output
            at END of the clean run is replaced (`patch_sweep`, noising).
        source: what the output is replaced by: "other" (the corrupted run of the pair), "resample" (another prompt's
            corrupted run, drawn by `seed`), "mean", "mean_positional" or "zero".
        memory: bound on what a run holds; more prompts than fit run one group after the other.

    Returns:
        OutputNodes: `.to_frame()`, `.needed(0.9)`, `.ranked`, `.heads`, `.headmap()`.

    The paper has 45 output nodes, 32 heads and 13 MLPs of Chinchilla 70B, and resamples from other prompts; with the
    default here a pair's own corrupted prompt is the other one. A direct effect counts all that a node writes, and a
    total effect only what the replacement changes; so the two differ even where nothing lies between node and logits.
    In a model with a soft cap, direct effects are logits before it and total ones behind it.

    Raises:
        ValueError: for a `total` below 0, unknown sources, and what `direct_logits` and `patch_sweep` refuse.
    """
    if total < 0:
        raise ValueError(f"total={total} was given; expected how many of the strongest nodes to patch, 0 or more.")
    chosen = plan("z", ("layer", "head"), _metric(task), "noising", source, "END", seed=seed, memory=memory)
    refuse_unfit(model, task)
    lettered = has_options(task)
    task, asked = (against_all(task, options_of(model, task)) if lettered else task), task
    readout = find_readout(model)
    found = _direct(model, task, readout, memory)
    units = units_of(readout).replace("answer minus foil", MEASURE) if lettered else units_of(readout)
    about = {**origin(model, asked), "run": "clean", "method": METHOD, "paper": "2307.09458"}
    settings = {key: value for key, value in chosen.described().items() if key in ("direction", "source", "seed")}
    about |= {"total": total, "total_of": {**settings, "positions": "END"}}
    nodes = _nodes(model)
    result = OutputNodes(nodes, *found, np.full_like(found[0], np.nan), task.templates, units, provenance=about)
    top = [nodes.index(node) for node in result.ranked[:total]]
    n_heads = model.n_layers * model.n_heads
    for site, axes, own in (
        ("z", chosen.axes, [at for at in top if at < n_heads]),
        ("mlp_out", ("layer",), [at for at in top if at >= n_heads]),
    ):
        if own:
            cells = [at if site == "z" else int(nodes[at][3:]) for at in own]
            only = np.isin(np.arange(n_heads if site == "z" else model.n_layers), cells)
            swept = run_plan(model, task, replace(chosen, site=site, axes=axes), progress=progress, only=only)
            assert swept.samples is not None
            result.total[:, own] = swept.samples.reshape(len(task), -1)[:, cells]
    return result


def _nodes(model: Model) -> tuple[str, ...]:
    heads = [str(Head(layer, head)) for layer in range(model.n_layers) for head in range(model.n_heads)]
    return (*heads, *(f"MLP{part.layer}" for part in parts_of(model) if part.kind == "mlp"))


def _metric(task: Task) -> Any:
    return CENTRED if has_options(task) else "logit_diff"


def _direct(model: Model, task: Task, readout: Readout, memory: str | int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direct effects [prompt, node], what no node writes, and the whole, per prompt."""
    outputs, parts = [head_output(model, layer) for layer in model.layers], parts_of(model)
    samples = np.zeros((len(task), len(_nodes(model))), np.float32)
    whole = np.zeros(len(task), np.float32)
    mlps, n_heads = [at for at, part in enumerate(parts) if part.kind == "mlp"], model.n_layers * model.n_heads
    sites = [*sites_of(model), *(Site("z", layer) for layer in range(model.n_layers))]
    for end in end_runs(model, task, "clean", sites, memory):
        split, rows = centred_split(model, readout, end, _foils(task, end)), [*end.prompts]
        heads = []
        for layer, output in enumerate(outputs):
            reading = output.reading(split.direction, end.at("z", layer), end.at("attn_out", layer))
            heads.append((end.at("z", layer) * reading).sum(-1))
        samples[rows, :n_heads] = torch.cat(heads, 1).cpu().numpy()
        samples[rows, n_heads:] = split.parts[:, mlps].cpu().numpy()
        whole[rows] = split.total.cpu().numpy()
    return samples, whole - samples.sum(1), whole


def _foils(task: Task, end: EndRun) -> Tensor:
    """Each prompt's foils [prompt, foil]: all letters that are wrong, or the task's foil."""
    if not has_options(task):
        return end.foils[:, None]
    return torch.tensor([task.foil_sets[prompt] for prompt in end.prompts], device=end.foils.device)


def centred_split(model: Model, readout: Readout, end: EndRun, foils: Int[Tensor, "prompt foil"]) -> Split:
    """`split_logits` of answer minus the mean of several foils [prompt, foil]."""
    splits = [split_logits(model, readout, replace(end, foils=foil)) for foil in foils.unbind(1)]
    names = ("parts", "total", "direction")
    return Split(*(torch.stack([getattr(split, name) for split in splits]).mean(0) for name in names))


def _reaching(means: Float[np.ndarray, "draw node"], share: float) -> np.ndarray:
    """From which ranked node on the positive effects come to the share, in each row."""
    grown = np.maximum(means, 0).cumsum(1)
    # rounding must not ask for one node more
    return (grown < share * grown[:, -1:] * (1 - 1e-9)).sum(1) + 1
