"""The logit lens: what the model would say if it stopped after each layer (nostalgebraist 2020; 2303.08112 compares it
with trained lenses).

The residual stream behind each layer goes straight through the model's own final norm, which takes its statistics
anew, and the unembedding. Behind the last layer that is the model's output.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.end_runs import EndRun, end_runs
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric, Metric, chosen, measured, tokens_of
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.readout import Readout, find_readout
from headlens.hooks.sites import Site


def logit_lens(
    model: Model,
    task: Task,
    metric: AnyMetric | Sequence[AnyMetric] = "logit_diff",
    run: str = "clean",
    memory: str | int | None = "1GiB",
) -> HeadMap:
    """The metric of final norm and unembedding applied to the residual stream behind each layer, at each prompt's END.

    Args:
        metric: a name ("logit_diff", "prob", "rank", ...), a function of (logits, task), or several, which add a last
            dim "metric". They see the logits as the model gives them, behind its scale and soft cap.
        run: `"clean"` or `"corrupted"`, the prompts that are run.
        memory: bound on what a run holds; more prompts than fit run one group after the other.

    Returns:
        A HeadMap over `layer` with each prompt's own readings in the metric's units (`samples`, scale 1). They are
        readings, not effects: the last layer's are those of the model's output.

    Raises:
        ValueError: for an unknown metric or run, or a model that is not a causal language model with an RMSNorm or a
            LayerNorm before its unembedding.
    """
    metrics, readout = chosen(metric), find_readout(model)
    samples = np.zeros((len(task), model.n_layers, len(metrics)), np.float32)
    for end, clean in _with_clean(model, task, run, memory):
        read = _read(model, task, metrics, readout, end, clean)
        samples[[*end.prompts]] = read.cpu().numpy()
    names, keys, single = [each.name for each in metrics], [each.key for each in metrics], len(metrics) == 1
    described = {"metric": names[0] if single else names, **({"metric_keys": keys} if any(keys) else {})}
    return HeadMap.from_samples(
        samples[..., 0] if single else samples,
        dims=("layer",) if single else ("layer", "metric"),
        coords={} if single else {"metric": names},
        name="logit lens",
        units=metrics[0].units if single else "each metric",
        sign="Larger means that the stream says more of the answer; of loss, rank and kl, smaller does.",
        clusters=task.templates,
        provenance={**origin(model, task), **described, "run": run, "method": "logit lens"},
    )


def _with_clean(model: Model, task: Task, run: str, memory: str | int | None) -> Iterator[tuple[EndRun, EndRun]]:
    """The run, beside the clean run of the same prompts, which some metrics compare with."""
    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    runs = end_runs(model, task, run, sites, memory)
    if run == "clean":
        return ((end, end) for end in runs)
    return zip(runs, end_runs(model, task, "clean", sites, memory), strict=True)


def _read(
    model: Model, task: Task, metrics: tuple[Metric, ...], readout: Readout, end: EndRun, clean: EndRun
) -> Float[Tensor, "prompt layer metric"]:
    own = task.subset(end.prompts)
    tokens = tokens_of(metrics, own)

    def logits(of: EndRun, layer: int) -> Float[Tensor, "prompt token"]:
        resid = of.at("resid_post", layer)
        some = readout.logits(resid) if tokens is None else readout.logits_of(resid, tokens.to(resid.device))
        return some.float()

    reference = logits(clean, model.n_layers - 1)
    layers = range(model.n_layers)
    return torch.stack([measured(metrics, logits(end, layer), own, reference) for layer in layers], 1)
