"""Direct path patching (2211.00593) with TransformerLens's arguments and results: one head's output into a later head.

The path from A to B: what A writes differently in the clean run is added to what B alone reads for its query (or key,
or value); every other reader sees A's corrupted output.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import patching as peer

from headlens.choice import one_of
from headlens.compat.paths import SITES, find_paths
from headlens.compat.runner import Cache, Runner, bridged, runner_of
from headlens.hooks.packing import packed_linears
from headlens.hooks.sites import Head, parse_heads


def get_act_patch_direct_path(
    model: Any,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Cache,
    corrupted_cache: Cache,
    patching_metric: Callable[[Tensor], Any],
    src_layer: int,
    src_head: int,
    component: str = "q",
    verbose: bool = True,
) -> Float[Tensor, "layer head"]:
    """The metric with the path from one head into each later head patched; rows up to `src_layer` are 0.

    Args:
        model: a TransformerBridge or a headlens Model.
        corrupted_tokens: the run that is patched.
        clean_cache, corrupted_cache: of both runs; they need `blocks.{src_layer}.attn.hook_z`.
        patching_metric: a function from logits [batch, pos, vocabulary] to a number.
        src_layer, src_head: the head whose output is patched.
        component: what the later head makes of it: its "q", "k" or "v".
        verbose: show progress.

    Raises:
        ValueError: for a head that does not exist, where a head's output does not reach the residual stream as z @ W_O
            (behind a norm or a scale), and for "k" and "v" of models with grouped queries.
    """
    runner = runner_of(model)
    (source,) = parse_heads((src_layer, src_head), runner.n_layers, runner.n_heads)
    caches = clean_cache, corrupted_cache
    return _measured(runner, corrupted_tokens, caches, patching_metric, [source], component, verbose)[0]


def get_act_patch_direct_path_all_sources(
    model: Any,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Cache,
    corrupted_cache: Cache,
    patching_metric: Callable[[Tensor], Any],
    component: str = "q",
    verbose: bool = True,
) -> Float[Tensor, "layer head layer head"]:
    """`get_act_patch_direct_path` from every head: [source layer, source head, layer, head], 0 for heads not later."""
    runner = runner_of(model)
    sources = parse_heads("all", runner.n_layers, runner.n_heads)
    caches = clean_cache, corrupted_cache
    found = _measured(runner, corrupted_tokens, caches, patching_metric, sources, component, verbose)
    return found.unflatten(0, (runner.n_layers, runner.n_heads))


def _measured(
    runner: Runner,
    tokens: Int[Tensor, "batch pos"],
    caches: tuple[Cache, Cache],
    metric: Callable[[Tensor], Any],
    sources: Sequence[Head],
    component: str,
    verbose: bool,
) -> Float[Tensor, "source layer head"]:
    one_of("component", component, SITES)
    if isinstance(runner.model, str):
        return _by_transformer_lens(runner, runner.model, tokens, caches, metric, sources, component, verbose)
    layers = sorted({source.layer for source in sources})
    with packed_linears(runner.model) if len(sources) > 1 else nullcontext():
        paths = find_paths(runner.model, tokens, *caches, metric, layers, component)
        reason = _why_not(runner, paths.sweep.base_logits, tokens) or paths.why_not_exact(sources[0])
        if reason is None:
            with tqdm(sources, unit=" sources", desc=f"direct paths into {component}", disable=not verbose) as bar:
                return torch.stack([paths.into_later_heads(source) for source in bar]).to(runner.device)
    return _by_transformer_lens(runner, reason, tokens, caches, metric, sources, component, verbose)


def _why_not(runner: Runner, logits: Tensor, tokens: Int[Tensor, "batch pos"]) -> str | None:
    """A bridge with hooks of its own says something else than the model that it holds."""
    own = runner.run(tokens, {})
    error = float((own - logits).abs().max())
    return (
        None
        if error <= 1e-4 * max(1.0, float(own.abs().max()))
        else f"hooks on the bridge move its logits by {error:.2g}."
    )


def _by_transformer_lens(
    runner: Runner,
    reason: str,
    tokens: Int[Tensor, "batch pos"],
    caches: tuple[Any, Any],
    metric: Callable[[Tensor], Any],
    sources: Sequence[Head],
    component: Any,
    verbose: bool,
) -> Float[Tensor, "source layer head"]:
    warnings.warn(f"Each path is a whole forward of TransformerLens's own: {reason}", stacklevel=4)
    bridge = bridged(runner).given
    with torch.no_grad():
        return torch.stack(
            [
                peer.get_act_patch_direct_path(bridge, tokens, *caches, metric, *source, component, verbose)
                for source in sources
            ]
        )
