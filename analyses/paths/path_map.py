"""The numbers of path patching on their way to a map, with what they were made from."""

from typing import Any

import numpy as np

from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import origin
from headlens.analyses.sweep_plan import Plan
from headlens.analyses.task import Task
from headlens.hooks.model import Model
from headlens.hooks.sites import Head
from headlens.hooks.wiring import LOGITS, Node


def as_path_map(
    model: Model,
    task: Task,
    plan: Plan,
    patched: tuple[tuple[Node, ...], str, list[Head]],
    samples: np.ndarray,
    scale: np.ndarray,
    method: str,
) -> HeadMap:
    """The map of effects [prompt, sender, metric] and of scale [prompt, metric], in the metrics' units.

    `patched` are the receivers, what MLPs did, and the senders.
    """
    receivers, mlps, senders = patched
    whole = np.full((len(task), model.n_layers, model.n_heads, len(plan.metrics)), np.nan, np.float32)
    whole[:, [head.layer for head in senders], [head.head for head in senders]] = samples
    single, names = len(plan.metrics) == 1, [metric.name for metric in plan.metrics]
    units = plan.metrics[0].units if single else "each metric"
    into, verb = _in_words(receivers), "restores" if plan.direction == "denoising" else "destroys"
    return HeadMap.from_samples(
        whole[..., 0] if single else whole,
        scale[:, 0] if single else scale,
        dims=("layer", "head") if single else ("layer", "head", "metric"),
        coords={} if single else {"metric": names},
        name=f"path patching effect into {into}",
        units=f"fraction of the clean-corrupted difference in {units}",
        sign=f"Positive means that the head's paths into {into} carry the clean behaviour; 1 means that patching them "
        f"{verb} all of it.",
        clusters=task.templates,
        provenance={
            **origin(model, task),
            **{key: value for key, value in plan.described().items() if key not in ("site", "axes", "source")},
            "receivers": [str(node) for node in receivers],
            **_shared(model, receivers),
            "mlps": mlps,
            "senders": [str(head) for head in senders],
            "method": method,
        },
    )


def _shared(model: Model, receivers: tuple[Node, ...]) -> dict[str, Any]:
    """Which query heads read each key/value head that receives, where queries are grouped."""
    group = model.n_heads // model.n_kv_heads
    shared = [node for node in receivers if node.kind in ("k", "v")] if group > 1 else []
    readers = {str(node): [str(Head(node.layer, node.head * group + at)) for at in range(group)] for node in shared}
    return {"receivers_read_by": readers} if readers else {}


def _in_words(receivers: tuple[Node, ...]) -> str:
    if receivers[-1].kind == LOGITS:
        return "the logits"
    return ", ".join(map(str, receivers)) if len(receivers) <= 3 else f"{len(receivers)} receivers"
