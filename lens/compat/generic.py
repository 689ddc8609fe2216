"""`generic_activation_patch` with TransformerLens's arguments and results, and headlens's replay engine inside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.patching import PatchingResult, make_df_from_ranges

from headlens.compat.cached_sweep import measured
from headlens.compat.patch import Patch
from headlens.compat.runner import Cache, Runner, runner_of
from headlens.compat.scoring import Scoring, scoring_of


def generic_activation_patch(
    model: Any,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Cache,
    patching_metric: Callable[[Tensor], Any] | Mapping[str, Callable[[Tensor], Any]],
    patch_setter: Callable[..., Tensor],
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: pandas.DataFrame | None = None,
    return_index_df: bool = False,
    *,
    reduce: str = "scalar",
    baseline: bool = False,
) -> Tensor | tuple[Tensor, pandas.DataFrame] | PatchingResult:
    """Patch one cell of an activation after the other from a cache, and measure the logits of each patched run.

    With TransformerLens's own setters the cells are replayed (`headlens.hooks.replay`), at the positions alone that the
    metric reads, and three of them are compared with whole forwards under TransformerLens's hooks; where these differ,
    and with a setter of your own, each cell is a whole forward. Nothing runs with gradients, which TransformerLens's
    `hook_resid_mid` depends on: here a patched resid_mid is always read by the whole rest of the block.

    Args:
        model: a TransformerBridge, or a headlens Model (which holds q and k behind their rotation).
        corrupted_tokens: the run that is patched.
        clean_cache: where the activations come from: an ActivationCache or any mapping of full hook names.
        patching_metric: a function from logits [batch, pos, vocabulary], or a mapping of names to such functions. A
            function is called once for each cell that moves, in no particular order.
        patch_setter: `setter(corrupted_activation, index, clean_activation)` returns the patched activation.
        activation_name: TransformerLens's short name, such as "z".
        index_axis_names: the axes to go through entirely, the layer first: layer, pos, head (or head_index), src_pos,
            dest_pos.
        index_df: instead, one row of indices for each cell, the layer first.
        return_index_df: return the rows as well.
        reduce: "scalar": the metric returns a scalar; "mean": [batch], which is averaged; "none": [batch], kept.
        baseline: measure the unpatched run as well.

    Returns:
        The metric's value of each cell, as it is: not its difference from the unpatched run. float32, shaped by the
        axes, or [row] with `index_df`. A PatchingResult with reduce="none", baseline=True or a mapping of metrics.

    Raises:
        ValueError: for another kind of model or one in training mode, and for arguments that do not fit together.
    """
    runner, scoring = runner_of(model), scoring_of(patching_metric, reduce, len(corrupted_tokens))
    typed = scoring.several or reduce == "none" or baseline
    if typed and return_index_df:
        raise ValueError("return_index_df goes with a tensor; the PatchingResult asked for here carries index_df.")
    result = swept(
        runner,
        corrupted_tokens,
        clean_cache,
        scoring,
        patch_setter,
        activation_name,
        index_axis_names,
        index_df,
        baseline,
    )
    if typed:
        return result
    return (result.values, result.index_df) if return_index_df else result.values


def swept(
    runner: Runner,
    tokens: Int[Tensor, "batch pos"],
    cache: Cache,
    scoring: Scoring,
    setter: Callable[..., Tensor],
    activation: str,
    axes: Sequence[str] | None,
    index_df: pandas.DataFrame | None,
    baseline: bool,
) -> PatchingResult:
    """The measures of all cells as a PatchingResult, whatever is made of it."""
    if (axes is None) == (index_df is None):
        raise ValueError(
            "Give either index_axis_names, the axes to go through, or index_df, one row for each cell. The "
            "get_act_patch functions have their axes: with index_df give them index_axis_names=None."
        )
    shape: tuple[int, ...] = () if index_df is None else (len(index_df),)
    if index_df is None:
        assert axes is not None
        shape = _ranges(runner, activation, axes, tokens.shape[-1])
        index_df = make_df_from_ranges(shape, list(axes))
    rows = [row.to_list() for _, row in index_df.iterrows()]
    values = (
        torch.zeros(0, *scoring.shape)
        if not rows
        else measured(runner, Patch(tokens, cache, setter, activation, rows), scoring)
    )
    values = values.movedim(0, 1).unflatten(1, shape).to(runner.device)
    unpatched = scoring(runner.run(tokens, {})).to(runner.device) if baseline else None
    if scoring.reduce == "mean":
        values, unpatched = values.mean(-1), None if unpatched is None else unpatched.mean(-1)
    return PatchingResult(
        values=values if scoring.several else values[0],
        axis_names=list(axes or []),
        index_df=index_df,
        metric_names=list(scoring.functions),
        reduced=scoring.reduce != "none",
        baseline=unpatched if unpatched is None or scoring.several else unpatched[0],
        has_metric_axis=scoring.several,
    )


def _ranges(runner: Runner, activation: str, axes: Sequence[str], length: int) -> tuple[int, ...]:
    heads = runner.n_kv_heads if activation in ("k", "v") else runner.n_heads
    sizes = {"layer": runner.n_layers, "head": heads, "head_index": heads}
    sizes |= dict.fromkeys(("pos", "src_pos", "dest_pos"), length)
    unknown = [axis for axis in axes if axis not in sizes]
    if unknown:
        raise ValueError(f"Unknown axis {unknown[0]!r}; the axes are {', '.join(sizes)}.")
    return tuple(sizes[axis] for axis in axes)
