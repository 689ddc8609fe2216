"""Activation patching: how much of the clean behaviour does each head, layer or position carry?

The two runs of a prompt pair differ; one activation of one run is put into the other, and the metric moves from the
unpatched value towards the other run's (2202.05262, 2211.00593, 2404.15255):

- denoising: the corrupted run gets the clean activation; effect = (patched - corrupted) / (clean - corrupted);
- noising: the clean run gets the corrupted activation; effect = (clean - patched) / (clean - corrupted).

Both are 0 for no change and 1 for a cell that restores (denoising) or destroys (noising) everything; positive means
that it carries the clean behaviour. Prompts are averaged above and below the fraction line separately, so that
one pair with a small difference cannot dominate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headlens.analyses.checkpoints import RESULT_FILE
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric
from headlens.analyses.positions import Position
from headlens.analyses.sweep_plan import Plan, plan
from headlens.analyses.sweeping import swept
from headlens.analyses.task import Task
from headlens.hooks.model import Model


def patch_sweep(
    model: Model,
    task: Task,
    site: str = "z",
    axes: Sequence[str] | None = None,
    metric: AnyMetric | Sequence[AnyMetric] | None = None,
    direction: str = "denoising",
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    memory: str | int = "1GiB",
    *,
    source: str = "other",
    positions: Position | Sequence[Position] | None = None,
    heads: Sequence[Any] | None = None,
    seed: int = 0,
) -> HeadMap:
    """Patch every cell of `axes` on every prompt pair of `task`; exact, by replay where possible.

    Args:
        site: where: z, result, rot_q, rot_k, v, attn_scores, pattern, attn_out, mlp_out, resid_pre, resid_mid or
            resid_post. At rot_k and v "head" counts key/value heads.
        axes: (layer, head), (layer, head, pos), (layer, pos), (layer), and at attn_scores and pattern
            (layer, head, query, key); without "head" all heads of a layer are patched together, without "pos" all
            positions. None: (layer, head), or (layer, pos) at sites without heads. At patterns pos is the query.
        metric: logit_diff, prob, prob_diff, rank, loss, kl, a function of (logits, task), or several (None: the task's
            own). Several add a last dim "metric".
        direction: "denoising" puts clean activations into the corrupted run, "noising" the reverse.
        source: the "other" run of the pair; or, made from the other run's prompts, "mean", "mean_positional" or
            "resample" (another prompt's, drawn by `seed`); or "zero".
        positions: token numbers, names of the task ("S2"), or spans ("S1..S2"): one cell each with axis pos, else all
            of them patched at once.
        heads: a set patched together as one cell, such as ["L23H3", "L20H0"], or a list of sets; axes (heads) or
            (heads, pos).
        run: a folder that receives each finished chunk and, at the end, the map (`headmap.safetensors`); a later call
            with the same arguments goes on from there.
        resume: False starts the folder afresh.
        memory: bound on what is kept of the base runs; more prompts than fit are swept in groups.

    Returns:
        A HeadMap with per-prompt effects in the metric's units (`samples`), the clean-minus-corrupted difference of
        each prompt (`scale`), and `values` = mean of samples / mean of scale. Positions that a prompt does not have
        are NaN. Of a model in bfloat16 or float16 some cells are computed again with the same weights in float32, and
        `provenance["half_precision"]` says how far they are apart (or why there is no float32 copy).

    Raises:
        ValueError: for unknown arguments, a model that is not a causal language model, a run folder that holds another
            sweep, or a task on which clean and corrupted do not differ.
    """
    wanted = task.metric if metric is None else metric
    chosen = plan(site, axes, wanted, direction, source, positions, heads, seed, memory)
    return run_plan(model, task, chosen, run, resume, progress)


def run_plan(
    model: Model,
    task: Task,
    plan: Plan,
    run: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    only: np.ndarray | None = None,
) -> HeadMap:
    """`patch_sweep` of a plan that is made already.

    `only` are the cells to patch, as booleans of the map's shape without metric; all others are NaN.
    """
    folder = None if run is None else Path(run)
    headmap = swept(model, task, plan, folder, resume, progress, only)
    if folder is not None:
        headmap.save(folder / RESULT_FILE)
    return headmap
