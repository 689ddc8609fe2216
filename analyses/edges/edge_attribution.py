"""Edge attribution patching: what patching every edge would do, to first order, in one backward pass for all of them.

The effect of letting a receiver read what a sender writes in the other run is estimated as (u' - u) . dm/d(input of the
receiver), summed over positions (EAP, 2310.10348). With `steps` > 1 the gradient is averaged over inputs between the
base run and the other one (EAP-IG, 2403.17806).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.attribution import check
from headlens.analyses.edges.edge_map import EdgeMap
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.metrics import AnyMetric, Metric, measured, tokens_of
from headlens.analyses.prompt_groups import PromptGroup, group_prompts
from headlens.analyses.provenance import origin
from headlens.analyses.sources import runs_of
from headlens.analyses.sweep_map import refuse_alike
from headlens.analyses.sweep_plan import Plan, plan
from headlens.analyses.task import Task
from headlens.hooks.base_run import record_base
from headlens.hooks.edges.edge_gradients import edge_products, written_apart
from headlens.hooks.model import Model
from headlens.hooks.wiring import Wiring, wiring_of

# Rows (prompts x positions) of one backward pass, whose activations are all kept, and bytes of what senders write in
# them.
_ROWS = 384
_BYTES = 2**28


def attribute_edges(
    model: Model,
    task: Task,
    metric: AnyMetric | Sequence[AnyMetric] | None = None,
    direction: str = "noising",
    steps: int = 1,
    *,
    progress: bool = True,
) -> EdgeMap:
    """Estimate the effect of patching each edge by itself from gradients.

    Senders are the embedding, each head (z times its rows of W_O) and each MLP; receivers are each head's query, each
    key/value head's key and value, each MLP and the logits. The gradient is by the receiver's own input: through its
    norm, projection and rotary embedding, not through what else reads the stream there.

    Args:
        metric: what is measured at END; the task's own by default.
        direction: "noising" estimates corrupted activations in the clean run, "denoising" the reverse.
        steps: 1 is the gradient at the base run itself. More average it over that many inputs whose embeddings lie on
            the way to the other run, in the middle of each of so many equal parts.

    Returns:
        An EdgeMap in patch_sweep's units: the mean over prompts of the estimate / the mean of clean minus corrupted.
        Positive means that the edge carries the clean behaviour; 1 stands for all of it.

    Departures: the paper of EAP-IG counts its inputs at the ends of the parts and its released code takes the left ends
    k/m, k = 0 to m - 1, from the corrupted input on, so that one step is the gradient at the corrupted run; middles are
    more exact for as many steps. Both papers rank by the size of the change in their metric and leave it in its units.
    Keys and values that query heads share are one receiver. Behind heads of a model with post-norms (Gemma 2) the norm
    is linearised at the run whose gradient is taken.

    Raises:
        ValueError: for a metric without a gradient (rank), several metrics, steps < 1, a model whose residual stream is
            not a sum of what its parts write, and whatever patch_sweep refuses.
    """
    chosen = plan("z", None, task.metric if metric is None else metric, direction)
    check(chosen, steps)
    refuse_unfit(model, task)
    wiring, groups = wiring_of(model), group_prompts(task, len(task))
    if not groups:
        raise ValueError(f"No pair of task {task.name!r} differs before END; there is nothing to attribute.")
    rows = min(_ROWS, _BYTES // (len(wiring.senders) * model.d_model * max(4, model.dtype.itemsize)))
    parts = [part for whole in groups for part in _parts(whole, rows)]
    total, scale = np.zeros(wiring.possible.shape), np.zeros((len(task), 1), np.float32)
    for group in tqdm(parts, unit=" groups", desc=f"attributing edges of {task.name}", disable=not progress):
        found, scale[list(group.indices)] = _of_group(model, task, group, chosen, wiring, steps)
        total += found
    refuse_alike(task, chosen, scale)
    # the plan's other choices are those of a sweep over heads
    choices = {key: value for key, value in chosen.described().items() if key.startswith(("metric", "direction"))}
    method = "gradient" if steps == 1 else f"integrated gradients, {steps} steps"
    return EdgeMap(
        values=np.where(wiring.possible, total / len(task) / scale.mean(dtype=np.float64), np.nan),
        wiring=wiring,
        name="attributed edge effect",
        units=f"fraction of the clean-corrupted difference in {chosen.metrics[0].units}",
        sign="Positive means that the edge carries the clean behaviour; 1 stands for all of it.",
        provenance={**origin(model, task), **choices, "method": f"edge attribution by {method}"},
    )


def _parts(group: PromptGroup, rows: int) -> list[PromptGroup]:
    """The group in parts of at most so many rows, or of one prompt."""
    size = max(1, rows // (group.length - group.start))
    return [
        PromptGroup(group.indices[at : at + size], group.start, group.length)
        for at in range(0, len(group.indices), size)
    ]


def _of_group(
    model: Model, task: Task, group: PromptGroup, plan: Plan, wiring: Wiring, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates [sender, receiver] summed over prompts, and scale [prompt, 1], in the metric's units."""
    own, toward = task.subset(group.indices), 1 if plan.direction == "denoising" else -1
    patched, other = (group.rows(tokens).to(model.device) for tokens in runs_of(task, plan))
    base = record_base(model, patched, group.start)
    apart = written_apart(model, wiring, base, other)
    of_runs = [_asked(plan.metrics, own, logits) for logits in apart.logits]
    clean = of_runs[1] if toward > 0 else of_runs[0]

    def metric(logits: Tensor) -> Tensor:
        return measured(plan.metrics, _asked(plan.metrics, own, logits), own, clean)[..., 0]

    shares = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    total = np.zeros(wiring.possible.shape)
    for share in shares:
        total += edge_products(model, wiring, base, other, apart, share, metric).double().cpu().numpy()
    base_value, other_value = (measured(plan.metrics, logits, own, clean) for logits in of_runs)
    return toward * total / steps, (toward * (other_value - base_value)).cpu().numpy()


def _asked(metrics: tuple[Metric, ...], task: Task, logits: Tensor) -> Tensor:
    """The logits that the metrics read, in float32 at least."""
    tokens = tokens_of(metrics, task)
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return exact if tokens is None else exact.gather(-1, tokens.to(exact.device))
