"""Several sweeps side by side on a leading axis of patch types, as TransformerLens's `*_every` functions have it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad
from transformer_lens.patching import PatchingResult, make_df_from_ranges

from headlens.compat.generic import swept
from headlens.compat.runner import Cache, runner_of
from headlens.compat.scoring import scoring_of


@dataclass(frozen=True)
class Type:
    """One patch type: its sweep, and its axes under the names that all types share."""

    setter: Callable[..., Tensor]
    activation: str
    axes: tuple[str, ...]
    named: tuple[str, ...]


def side_by_side(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    cache: Cache,
    metric: Any,
    types: Mapping[str, Type],
    axes: Sequence[str],
    reduce: str,
    baseline: bool,
) -> Tensor | PatchingResult:
    """[patch_type, *axes], or a PatchingResult of that; key/value heads that a model does not have are 0."""
    runner, scoring = runner_of(model), scoring_of(metric, reduce, len(tokens))
    results = []
    for each in types.values():
        with_baseline = baseline and not results
        results.append(
            swept(runner, tokens, cache, scoring, each.setter, each.activation, each.axes, None, with_baseline)
        )
    lead = int(scoring.several)
    laid = [_laid(result.values, each.named, axes, lead) for result, each in zip(results, types.values(), strict=True)]
    heads = lead + axes.index("head") if "head" in axes else None
    if heads is not None:
        laid = [_padded(values, heads, runner.n_heads) for values in laid]
    values = torch.stack(laid, lead)
    if not (scoring.several or reduce == "none" or baseline):
        return values
    names = ["patch_type", *axes]
    return PatchingResult(
        values=values,
        axis_names=names,
        index_df=make_df_from_ranges(values.shape[lead : lead + len(names)], names),
        metric_names=results[0].metric_names,
        reduced=results[0].reduced,
        baseline=results[0].baseline,
        has_metric_axis=scoring.several,
        patch_type_names=list(types),
    )


def _laid(values: Tensor, named: Sequence[str], axes: Sequence[str], lead: int) -> Tensor:
    """The same values with their cells' axes in the order wanted, behind `lead` others."""
    order = [lead + named.index(axis) for axis in axes]
    behind = range(lead + len(named), values.ndim)
    return values.permute(*range(lead), *order, *behind)


def _padded(values: Tensor, axis: int, size: int) -> Tensor:
    return pad(values.movedim(axis, -1), (0, size - values.shape[axis])).movedim(-1, axis)
