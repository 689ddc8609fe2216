"""Path patching: whom does each head speak to, and how much of the clean behaviour goes that way?

Patching a head moves everything behind it. Path patching (2211.00593, 2310.08744) moves only what chosen receivers read
of it: the logits, or the queries, keys or values of some later heads.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from headlens.analyses.chunking import largest_group, packs
from headlens.analyses.fitness import refuse_unfit
from headlens.analyses.headmap import HeadMap
from headlens.analyses.metrics import AnyMetric, measured, tokens_of
from headlens.analyses.paths.path_map import as_path_map
from headlens.analyses.paths.path_stages import Part, parts_of
from headlens.analyses.positions import Position, checked
from headlens.analyses.prompt_groups import group_prompts
from headlens.analyses.sources import runs_of
from headlens.analyses.sweep_map import refuse_alike
from headlens.analyses.sweep_plan import Plan, plan
from headlens.analyses.task import Task
from headlens.hooks.host_memory import keep_freed_memory
from headlens.hooks.model import Model
from headlens.hooks.packing import packed_linears
from headlens.hooks.paths.path_run import PathRun
from headlens.hooks.paths.plain_paths import PlainPaths, why_not_by_replay
from headlens.hooks.paths.receivers import Receivers, receivers_of
from headlens.hooks.reading import Read
from headlens.hooks.sites import Head, parse_heads
from headlens.hooks.sweep import Pairs
from headlens.hooks.wiring import LOGITS, Node

_MLPS = ("recomputed", "frozen")


def path_patch(
    model: Model,
    task: Task,
    receivers: Receivers = "logits",
    *,
    positions: Position | Sequence[Position] | None = None,
    mlps: str = "recomputed",
    senders: str | Iterable[Any] = "heads",
    metric: AnyMetric | Sequence[AnyMetric] | None = None,
    direction: str = "noising",
    progress: bool = True,
    memory: str | int = "1GiB",
) -> HeadMap:
    """The effect of each head through its paths into `receivers` alone; exact, by replay where possible.

    The base run is the clean one when noising and the corrupted one when denoising, the other run its partner. For
    each sender:

    1. the base prompt is run with the sender's z taken from the other run at `positions`, all attention of later layers
       frozen as it was in the base run, and MLPs computed again; what the receivers' q, k or v become is kept;
    2. the base prompt is run with nothing replaced but the receivers' q, k or v at `positions`, by what was kept. The
       metric is read at END of this run. Where the logits receive, it is read in the first run already.

    So a path goes from a head through any MLPs, but through no other head. Frozen attention lets no position see
    another: what a sender says at a position reaches receivers only there, and one `positions` serves both.

    Args:
        receivers: "logits", or pairs of a head and "q", "k" or "v", such as [("L23H3", "q"), ("L20H0", "q")], which
            receive together. A head is named by its query head; with grouped queries its k and v are those of the
            key/value head that it reads, and so of all query heads of its group.
        positions: names of the task ("END", "S2"), spans ("S1..S2") or token numbers, taken together; None: all
            positions. Into the logits, which are read at END, nothing comes from anywhere else.
        mlps: "recomputed", or "frozen": as in the base run, so that only the residual stream itself is a path.
        senders: "heads" for all, or a list such as ["L9H6", "L9H9"].
        metric: logit_diff, prob, prob_diff, rank, loss, kl, a function of (logits, task), or several (None: the task's
            own). Several add a last dim "metric".
        direction: "noising": effect = (clean - patched) / (clean - corrupted); "denoising": effect = (patched -
            corrupted) / (clean - corrupted).
        memory: bound on what is kept of the base runs; more prompts than fit are run in groups.

    Returns:
        A HeadMap over the senders' (layer, head), with per-prompt effects in the metric's units (`samples`), the
        clean-minus-corrupted difference of each prompt (`scale`), and `values` = mean of samples / mean of scale.
        Positive means that the paths carry the clean behaviour, 1 that they carry all of it. Heads that can reach no
        receiver, in the last receiver's layer or behind it, and heads that are not among `senders`, are NaN.

    The code released with 2310.08744 stores -100 times this effect, as a mean over batches of each batch's ratio (here:
    one ratio of means over all prompts); it reads one position for a whole batch (here: each prompt its own), and
    freezes heads at that position alone (here everywhere, so that nothing takes a way round through later positions).

    Raises:
        ValueError: for unknown arguments, receivers that no sender can reach, a model that is not a causal language
            model, or a task on which clean and corrupted do not differ.
    """
    refuse_unfit(model, task)
    if mlps not in _MLPS:
        raise ValueError(f"Unknown mlps {mlps!r}; give recomputed or frozen.")
    wanted = task.metric if metric is None else metric
    chosen = plan("z", None, wanted, direction, positions=checked(positions, task), memory=memory)
    nodes = receivers_of(model, receivers)
    heads = _senders(model, senders, nodes)
    groups = group_prompts(task, largest_group(model, task, chosen))
    if not groups:
        raise ValueError(f"No pair of task {task.name!r} differs before END; there is nothing to patch.")
    parts = [part for group in groups for part in parts_of(task, chosen.positions, group, nodes, mlps)]
    if nodes[-1].kind == LOGITS and not any(part.stage.columns for part in parts):
        raise ValueError(
            f"The positions {[*(chosen.positions or ())]} were given, and the logits are read at END, where nothing of "
            "other positions arrives but through later heads; give END, or the heads as receivers."
        )
    rows = len(heads) * sum(len(part.group.indices) * len(part.stage.columns) for part in parts)
    keep_freed_memory()
    with packed_linears(model) if packs(model, chosen, rows) else nullcontext():
        reason = _why_not(model, task, chosen, parts, heads)
        samples, scale = _effects(model, task, chosen, parts, heads, reason is None, progress)
    method = "replay" if reason is None else f"plain forwards, since {reason}"
    refuse_alike(task, chosen, scale)
    return as_path_map(model, task, chosen, (nodes, mlps, heads), samples, scale, method)


def _senders(model: Model, senders: str | Iterable[Any], nodes: tuple[Node, ...]) -> list[Head]:
    """The heads that are asked for and can reach a receiver."""
    asked: Any = "all" if isinstance(senders, str) and senders == "heads" else senders
    heads = sorted({*parse_heads(asked, model.n_layers, model.n_heads)})
    if not heads:
        raise ValueError("senders=[] names no heads; give at least one, or 'heads' for all.")
    reaching = [head for head in heads if head.layer < nodes[-1].layer]
    if not reaching:
        raise ValueError(
            f"No sender comes before the receiver {nodes[-1]}: heads reach only later layers; give senders of layers "
            f"in front of {nodes[-1].layer}, or later receivers."
        )
    return reaching


def _why_not(model: Model, task: Task, plan: Plan, parts: list[Part], heads: list[Head]) -> str | None:
    """Why the replay engine cannot be used, if so: tried on the first prompt that has any of the positions."""
    part = next((part for part in parts if part.stage.columns), None)
    if part is None:
        # only positions at which the runs agree: all effects are 0
        return None
    return why_not_by_replay(model, _pairs(model, task, plan, part), part.stage, sorted({heads[0], heads[-1]}))


def _pairs(model: Model, task: Task, plan: Plan, part: Part) -> Pairs:
    base, other = (part.group.rows(tokens).to(model.device) for tokens in runs_of(task, plan))
    tokens = tokens_of(plan.metrics, task.subset(part.group.indices))
    return Pairs(base, other, part.group.start, Read(None if tokens is None else tokens.to(model.device)))


def _effects(
    model: Model, task: Task, plan: Plan, parts: list[Part], heads: list[Head], replayed: bool, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Effects [prompt, sender, metric] and scale [prompt, metric], in the metrics' units."""
    samples = np.zeros((len(task), len(heads), len(plan.metrics)), np.float32)
    scale = np.zeros((len(task), len(plan.metrics)), np.float32)
    denoising = plan.direction == "denoising"
    toward = 1 if denoising else -1
    with tqdm(total=len(heads) * len(task), unit=" senders", disable=not progress) as bar:
        bar.set_description(f"path patching {task.name}")
        for part in parts:
            run = (PathRun if replayed else PlainPaths).of(model, _pairs(model, task, plan, part), part.stage)
            clean = (run.other_logits if denoising else run.base_logits)[:, -1].float()
            measure = partial(_measured, plan, task.subset(part.group.indices), clean)
            base, other = (measure(logits[None])[0] for logits in (run.base_logits, run.other_logits))
            prompts = list(part.group.indices)
            samples[prompts] = (toward * (run.patched(heads, measure) - base)).transpose(0, 1).numpy()
            scale[prompts] = (toward * (other - base)).numpy()
            bar.update(len(heads) * len(prompts))
    return samples, scale


def _measured(plan: Plan, task: Task, clean: Tensor, logits: Tensor) -> Tensor:
    return measured(plan.metrics, logits[:, :, -1].float(), task, clean).cpu()
