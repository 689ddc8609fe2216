"""How much of the clean behaviour does one edge carry? The exact effect of patching chosen edges, one at a time.

One receiver reads what one sender writes in the other run, everything else reads what it did, and all that comes behind
the receiver is recomputed. Denoising and noising, and the effect as a ratio of means, are as in patch_sweep:

- denoising: the corrupted run, in which the edge carries the clean value; (patched - corrupted) / (clean - corrupted);
- noising: the clean run, in which it carries the corrupted one; (clean - patched) / (clean - corrupted).

This is what edge attribution patching (2310.10348, `attribute_edges`) estimates, and ACDC's (2304.14997) step at each
edge where none is cut yet.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.edges.edge_names import edges_named
from headlens.analyses.edges.edge_samples import EdgeEffects
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.metrics import AnyMetric, Metric, measured, named, tokens_of
from headlens.analyses.prompt_groups import PromptGroup, group_prompts
from headlens.analyses.provenance import origin
from headlens.analyses.sources import runs_of
from headlens.analyses.sweep_map import refuse_alike
from headlens.analyses.sweep_plan import Plan, plan
from headlens.analyses.task import Task
from headlens.hooks.base_run import bytes_per_prompt
from headlens.hooks.edges.edge_patches import Edge, EdgePatches
from headlens.hooks.model import Model
from headlens.hooks.reading import Read
from headlens.hooks.record import parse_bytes
from headlens.hooks.wiring import wiring_of

# Edges of which one call of the engine keeps logits.
_AT_ONCE = 256


def edge_effects(
    model: Model,
    task: Task,
    edges: Sequence[tuple[str, str]],
    metric: AnyMetric | None = None,
    direction: str = "noising",
    *,
    memory: str | int = "1GiB",
    progress: bool = True,
) -> EdgeEffects:
    """Patch each of `edges` by itself on every prompt pair; exact, by replay from the receiver's layer on.

    Args:
        edges: pairs of a sender (embed, L3H1, MLP3) and a receiver (L5H2.q, L5KV0.k, L5KV0.v, MLP3, logits). A key or
            value that query heads share is one receiver, which any of them may name: L5H2.k.
        metric: what is measured at END; the task's own by default.
        direction: "noising" puts what the sender writes in the corrupted run into the clean one, "denoising" the
            reverse.
        memory: bound on what is kept of the two runs; more prompts than fit run one group after the other.

    Returns:
        EdgeEffects, in the order of `edges`. Pairs that do not differ before END have effect 0.

    Raises:
        ValueError: for edges that the model does not have, a model whose residual stream is not the sum of what heads
            and MLPs write (Gemma 2 norms the sum of its heads), and whatever patch_sweep refuses.
    """
    wiring = wiring_of(model)
    chosen, wanted = edges_named(wiring, edges), named(task.metric if metric is None else metric)
    about = plan("z", None, wanted, direction)
    refuse_unfit(model, task)
    bound, longest = parse_bytes(memory), task.clean_tokens.shape[1]
    # two base runs, and a batch in flight
    largest = len(task) if bound is None else max(1, bound // 3 // bytes_per_prompt(model, longest))
    groups = group_prompts(task, largest)
    if not groups:
        raise ValueError(f"No pair of task {task.name!r} differs before END; there is nothing to patch.")
    samples, scale = np.zeros((len(chosen), len(task)), np.float32), np.zeros((len(task), 1), np.float32)
    with tqdm(total=len(chosen) * len(task), unit=" edges", desc=f"patching {task.name}", disable=not progress) as bar:
        for group in groups:
            own = [*group.indices]
            samples[:, own], scale[own, 0] = _effects(model, task, chosen, group, wanted, about)
            bar.update(len(chosen) * len(own))
    refuse_alike(task, about, scale)
    verb = "restores" if direction == "denoising" else "destroys"
    described = {
        key: value for key, value in about.described().items() if key in ("metric", "metric_keys", "direction")
    }
    return EdgeEffects(
        edges=chosen,
        samples=samples,
        scale=scale[:, 0],
        wiring=wiring,
        units=f"fraction of the clean-corrupted difference in {wanted.units}",
        sign=f"Positive means that the edge carries the clean behaviour; 1 means that patching it {verb} all of it.",
        clusters=task.templates,
        provenance={**origin(model, task), **described, "method": "exact edge patching"},
    )


def _effects(
    model: Model, task: Task, edges: tuple[Edge, ...], group: PromptGroup, metric: Metric, about: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """Effects [edge, prompt] and scale [prompt] of one group, in the metric's units."""
    own = task.subset(group.indices)
    tokens = tokens_of([metric], own)
    read = Read(None if tokens is None else tokens.to(model.device))
    base, other = (group.rows(run).to(model.device) for run in runs_of(task, about))
    patches = EdgePatches.of(model, base, other, group.start, read)
    logits = patches.unpatched()
    denoising = about.direction == "denoising"
    clean, toward = logits[int(denoising)].float(), 1 if denoising else -1

    def measure(some: Tensor) -> Tensor:
        return measured([metric], some.float(), own, clean)[..., 0].cpu()

    of_base, of_other = (measure(each) for each in logits)
    patched = [measure(patches.patched(edges[first : first + _AT_ONCE])) for first in range(0, len(edges), _AT_ONCE)]
    return (toward * (torch.cat(patched) - of_base)).numpy(), (toward * (of_other - of_base)).numpy()
