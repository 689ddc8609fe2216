"""Direct logit attribution of heads: what each head itself writes into the answer's logit, not through later layers.

    z[END, head] @ W_O[head] @ direction,     direction = final norm' (W_U[answer] - W_U[foil])

with the final norm's statistics frozen at that very position (2211.00593 section 3, 2209.02535). z is a sum over the
keys that the head reads, so the same number splits further into what it fetches from each position.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlens.analyses.direct_parts import METHOD, sites_of, split_logits, units_of
from headlens.analyses.end_runs import EndRun, end_runs
from headlens.analyses.headmap import HeadMap
from headlens.analyses.provenance import origin
from headlens.analyses.task import Task
from headlens.hooks.head_output import head_output
from headlens.hooks.model import Model
from headlens.hooks.readout import find_readout
from headlens.hooks.sites import Site

AXES = (("layer", "head"), ("layer", "head", "key"))


def direct_logits(
    model: Model,
    task: Task,
    axes: Sequence[str] = ("layer", "head"),
    run: str = "clean",
    memory: str | int | None = "1GiB",
) -> HeadMap:
    """The part of answer logit minus foil logit at each prompt's END that each head's output writes directly.

    Args:
        axes: `("layer", "head")`, or `("layer", "head", "key")` to split a head's part by the position that it reads:
            pattern[END, key] * v[key] in place of z. The keys of a head sum to the head.
        run: `"clean"` or `"corrupted"`, the prompts that are run.
        memory: bound on what a run holds; more prompts than fit run one group after the other.

    Returns:
        A HeadMap in logits (before the soft cap, in a model that has one); positive heads speak for the answer,
        negative ones for the foil. `samples` are the prompts' own logits and `scale` is 1, so that `values` are means.
        Keys behind a prompt's END are NaN. Output biases belong to no head; `direct_parts` counts them with the layer.

    Raises:
        ValueError: for unknown axes or runs, and for models that `direct_parts` refuses too, or whose attention output
            passes through something else than an RMSNorm or a LayerNorm.
    """
    axes = tuple(axes)
    if axes not in AXES:
        known = " or ".join(",".join(some) for some in AXES)
        raise ValueError(f"Axes {','.join(axes)!r} are not available; give {known}.")
    readout, outputs = find_readout(model), [head_output(model, layer) for layer in model.layers]
    by_key, n_keys = "key" in axes, int(task.positions["END"].max()) + 1
    samples = np.full((len(task), model.n_layers, model.n_heads, *([n_keys] if by_key else [])), np.nan, np.float32)
    for end in end_runs(model, task, run, [*sites_of(model), *_head_sites(model, by_key)], memory):
        direction = split_logits(model, readout, end).direction
        for layer, output in enumerate(outputs):
            reading = output.reading(direction, end.at("z", layer), end.at("attn_out", layer))
            said = (_per_key if by_key else _per_head)(end, layer, reading).cpu().numpy()
            samples[[*end.prompts], layer, :, *(slice(size) for size in said.shape[2:])] = said
    return HeadMap.from_samples(
        samples,
        dims=axes,
        name="direct logit attribution",
        units=units_of(readout),
        sign="Positive means that what the head writes speaks for the answer, negative for the foil.",
        clusters=task.templates,
        provenance={**origin(model, task), "axes": [*axes], "run": run, "method": METHOD},
    )


def _head_sites(model: Model, by_key: bool) -> list[Site]:
    names = ("z", "pattern", "v") if by_key else ("z",)
    return [Site(name, layer) for name in names for layer in range(model.n_layers)]


def _per_head(end: EndRun, layer: int, reading: Float[Tensor, "prompt head d_head"]) -> Float[Tensor, "prompt head"]:
    return (end.at("z", layer) * reading).sum(-1)


def _per_key(end: EndRun, layer: int, reading: Float[Tensor, "prompt head d_head"]) -> Float[Tensor, "prompt head key"]:
    values = end.at("v", layer)
    # heads that share values stand side by side
    grouped = reading.unflatten(1, (values.shape[2], -1))
    return end.at("pattern", layer) * torch.einsum("pkvd,pvgd->pvgk", values, grouped).flatten(1, 2)
